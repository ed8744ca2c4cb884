import { setImmediate as tick } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { seeded } from '../../../test/migration/disk-link.ts';
import { memoryPair, type MemoryPair } from '../../../test/kit/memoryPair.ts';
import { noisePage, RAM_ID } from '../../../test/kit/qemuStream.ts';
import { type TempDir, tempDir } from '../../../test/kit/tempdir.ts';
import { sleep } from '../../base/async.ts';
import { errorCode } from '../../base/errors.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { encodePageRequest, encodeShut } from '../../wire/qemu-stream/returnPath.ts';
import { StreamWriter } from '../../wire/qemu-stream/writer.ts';
import { decodeStreamMessage, MESSAGE_STREAM } from '../messages.ts';

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir[Symbol.asyncDispose]());

const MIB = 1024 * 1024;

/** Header, set-up and round one. */
function roundOne(pages: number): Buffer {
  const writer = new StreamWriter().fileHeader().configuration('pc-i440fx-7.2');
  writer.sectionStart(RAM_ID).memSize([{ name: 'pc.ram', lengthBytes: 64 * MIB, hugePageBytes: undefined }]);
  writer.eos().footer(RAM_ID).sectionPart(RAM_ID);
  for (let page = 0; page < pages; page++) {
    const block = page === 0 ? 'pc.ram' : undefined;
    if (page % 3 === 0) writer.zeroPage(page, block);
    else writer.dataPage(page, noisePage(page), block);
  }
  return writer.eos().footer(RAM_ID).take();
}

function postcopyPages(first: number, pages: number): Buffer {
  const writer = new StreamWriter().sectionPart(RAM_ID);
  for (let page = first; page < first + pages; page++)
    writer.dataPage(page, noisePage(page), page === first ? 'pc.ram' : undefined);
  return writer.eos().footer(RAM_ID).take();
}

const packaged = (bytes = 100_000): Buffer =>
  new StreamWriter().packaged(Buffer.alloc(bytes, 'state')).take();
const end = (): Buffer => new StreamWriter().sectionEnd(RAM_ID).eos().footer(RAM_ID).bytes([0]).take();

/** Device sections without lengths, then EOF and the machine's description. */
function tail(): Buffer {
  const json = Buffer.from(JSON.stringify({ devices: ['}', 'pc'] }));
  const head = Buffer.from([0, 6, 0, 0, 0, json.length]);
  return Buffer.concat([Buffer.from([4]), noisePage(7), Buffer.alloc(9000), Buffer.from('}'), head, json]);
}

const random = seeded(42);
const jitter = { delayTurns: (): number => Math.floor(random() * 6) };

async function eventually(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(2);
}

async function write(pair: MemoryPair, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + Math.floor(random() * 70_000);
    await new Promise<void>((resolve) => {
      pair.main.write(bytes.subarray(at, at + size), () => resolve());
    });
    at += size;
  }
}

describe('the target’s QEMU gets the very bytes of the source’s', () => {
  test.each(['rle', 'zstd', 'raw'] as const)('through both lanes, out of order (%s)', async (codec) => {
    await using pair = await memoryPair(dir, { codec, down: jitter, up: jitter });
    const parts = [roundOne(900), packaged(), postcopyPages(5000, 300), end()];
    await write(pair, roundOne(900));
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, Buffer.concat(parts.slice(1, 2)));
    await eventually(() => pair.takenAtBytes() !== undefined);
    await write(pair, Buffer.concat(parts.slice(2)));
    pair.main.end();
    await pair.source.finished;
    await pair.incoming.ended();
    expect(pair.incoming.received().equals(Buffer.concat(parts))).toBe(true);
    expect(new Set(pair.down.log.map(({ lane }) => lane))).toEqual(new Set(['urgent', 'bulk']));
    expect(pair.down.refusals).toEqual([]);
    // ownership was taken before the first byte of the package
    expect(pair.takenAtBytes()).toBe(roundOne(900).length);
    expect(pair.source.stats()).toMatchObject({ completedAsPrecopy: false, pagesPostCopied: 300 });
  });

  test.each([undefined, 7])('round one is packed in other threads, level %s', async (zstdLevel) => {
    await using pair = await memoryPair(dir, { codec: 'zstd', ...(zstdLevel ? { zstdLevel } : {}) });
    const parts = [roundOne(3000), packaged(), end()];
    await write(pair, roundOne(3000));
    await pair.source.drained();
    // nothing was still to come when the pipe passed for empty
    const messages = pair.down.log.length;
    await eventually(() => pair.incoming.received().length >= roundOne(3000).length);
    expect(pair.down.log.length).toBe(messages);
    const { codecLevels } = pair.source.stats();
    if (zstdLevel) expect(codecLevels).toEqual({ min: zstdLevel, max: zstdLevel, last: zstdLevel });
    expect(codecLevels?.min).toBeLessThanOrEqual(codecLevels?.max ?? -1);
    pair.source.beginSwitch();
    await write(pair, Buffer.concat(parts.slice(1)));
    pair.main.end();
    await pair.source.finished;
    await pair.incoming.ended();
    expect(pair.incoming.received().equals(Buffer.concat(parts))).toBe(true);
    // what follows the switch is packed on the spot, and counts for nothing
    expect(pair.source.stats().codecLevels).toEqual(codecLevels);
  });

  test('the preempt channel is urgent, and not held back', async () => {
    await using pair = await memoryPair(dir, { preempt: true, down: jitter });
    await write(pair, roundOne(30));
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, packaged());
    await eventually(() => pair.takenAtBytes() !== undefined);
    const faulted = postcopyPages(10, 1).subarray(5);
    pair.preempt?.write(faulted);
    await eventually(() => pair.incoming.received(1).length > 0);
    pair.preempt?.end();
    await pair.incoming.ended(1);
    expect(pair.incoming.received(1).equals(faulted)).toBe(true);
    expect(pair.down.log.at(-1)?.lane).toBe('urgent');
  });

  test('back-pressure: QEMU is not read faster than the link takes it', async () => {
    await using pair = await memoryPair(dir, { codec: 'raw', down: { windowBytes: 64 * 1024 } });
    pair.down.cut();
    const bytes = roundOne(6000);
    const written = write(pair, bytes);
    await sleep(200);
    // one chunk of the socket and one frame, besides what the kernel holds
    expect(pair.source.stats().encoder.pagesSeen).toBeLessThan(1000);
    pair.down.resume();
    await written;
    await eventually(() => pair.incoming.received().length >= bytes.length);
  });
});

test('while QEMU starts the link is used, up to a limit; then everything is there, in order', async () => {
  await using pair = await memoryPair(dir, { codec: 'raw', late: true, down: { windowBytes: MIB } });
  const bytes = roundOne(9000);
  const written = write(pair, bytes);
  await eventually(() => pair.down.log.length > 20);
  let settledAt = 0;
  await eventually(() => {
    const before = settledAt;
    settledAt = pair.source.stats().encoder.pagesSeen;
    return settledAt > 0 && before === settledAt && settledAt > 3000;
  });
  expect(settledAt).toBeLessThan(9000);
  expect(pair.incoming.received().length).toBe(0);
  await pair.target.connect();
  await written;
  await eventually(() => pair.incoming.received().length >= bytes.length);
  expect(pair.incoming.received().equals(bytes)).toBe(true);
});

describe('QEMU completes as pre-copy by itself', () => {
  test('its device state is held until its end, and until QEMU cannot start the VM again', async () => {
    const completed = Promise.withResolvers<void>();
    const asked: boolean[] = [];
    await using pair = await memoryPair(dir, {
      down: jitter,
      onTakeover: (byItself) => {
        asked.push(byItself);
        return completed.promise;
      },
    });
    const before = Buffer.concat([
      roundOne(60),
      new StreamWriter().sectionEnd(RAM_ID).eos().footer(RAM_ID).take(),
    ]);
    const state = tail();
    await write(pair, before);
    await write(pair, state.subarray(0, -1));
    await sleep(50);
    expect(asked).toEqual([]);
    expect(pair.returned().length).toBe(0);
    await write(pair, state.subarray(-1));
    // QEMU hears that all has arrived before anything of it leaves
    await eventually(() => pair.returned().length > 0);
    expect(pair.returned().equals(encodeShut(0))).toBe(true);
    expect(asked).toEqual([true]);
    await sleep(30);
    expect(pair.takenAtBytes()).toBeUndefined();
    expect(pair.incoming.received().length).toBeLessThanOrEqual(before.length);
    pair.main.end();
    completed.resolve();
    await pair.source.finished;
    await pair.incoming.ended();
    expect(pair.incoming.received().equals(Buffer.concat([before, state]))).toBe(true);
    expect(pair.takenAtBytes()).toBeLessThanOrEqual(before.length);
    expect(pair.source.stats().completedAsPrecopy).toBe(true);
  });

  test('a device state that breaks off is not passed on', async () => {
    await using pair = await memoryPair(dir);
    await write(pair, roundOne(10));
    await write(pair, tail().subarray(0, 3000));
    pair.main.end();
    await expect(pair.source.finished).rejects.toMatchObject({ code: 'MOVER_QEMU_SOURCE' });
    expect(pair.takenAtBytes()).toBeUndefined();
    expect(pair.source.abandon()).toBe(true);
  });
});

describe('the switch', () => {
  async function switched(): Promise<MemoryPair> {
    const pair = await memoryPair(dir);
    await write(pair, roundOne(30));
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, packaged());
    await eventually(() => pair.takenAtBytes() !== undefined);
    return pair;
  }
  const sent = (pair: MemoryPair): number => pair.incoming.received().length;

  test('background pages wait until the VM runs', async () => {
    await using pair = await switched();
    await eventually(() => sent(pair) > 100_000);
    const before = sent(pair);
    await write(pair, postcopyPages(100, 40));
    await sleep(40);
    expect(sent(pair)).toBe(before);
    pair.source.resumeBackground();
    await eventually(() => sent(pair) > before + 40 * PAGE_BYTES);
    expect(pair.down.log.at(-1)?.lane).toBe('bulk');
  });

  test('a page that the target asks for releases them', async () => {
    await using pair = await switched();
    await write(pair, postcopyPages(100, 40));
    const request = encodePageRequest('pc.ram', 100 * PAGE_BYTES, PAGE_BYTES);
    pair.incoming.sockets[0]?.write(request);
    await eventually(() => sent(pair) > 100_000 + 40 * PAGE_BYTES);
    // and after it those beside it, as far as its block goes
    const beside = encodePageRequest('pc.ram', 96 * PAGE_BYTES, 8 * PAGE_BYTES);
    await eventually(() => pair.returned().length >= request.length + beside.length);
    expect(pair.returned().equals(Buffer.concat([request, beside]))).toBe(true);
    expect(pair.source.stats().pagesFaulted).toBe(1);
  });

  test('so does the time', async () => {
    await using pair = await switched();
    await write(pair, postcopyPages(100, 40));
    await eventually(() => sent(pair) > 100_000 + 40 * PAGE_BYTES);
  });

  test('a package that breaks off is not passed on', async () => {
    await using pair = await memoryPair(dir);
    await write(pair, roundOne(10));
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, packaged().subarray(0, 60_000));
    pair.main.end();
    await expect(pair.source.finished).rejects.toMatchObject({ code: 'MOVER_QEMU_SOURCE' });
    await tick();
    expect(pair.takenAtBytes()).toBeUndefined();
    expect(pair.source.abandon()).toBe(true);
  });

  test('an abandoned hand-over never leaves, one that has left cannot be abandoned', async () => {
    const offered = Promise.withResolvers<void>();
    await using pair = await memoryPair(dir, { onTakeover: () => offered.promise });
    await write(pair, roundOne(10));
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, packaged());
    await sleep(20);
    expect(pair.source.abandon()).toBe(true);
    offered.resolve();
    await expect(pair.source.finished).rejects.toMatchObject({ code: 'MOVER_CANCELLED' });
    await sleep(20);
    expect(pair.takenAtBytes()).toBeUndefined();

    await using other = await switched();
    expect(other.source.abandon()).toBe(false);
  });
});

describe('a source that misbehaves', () => {
  test('a damaged frame: QEMU sees nothing behind it, and ownership is not taken for it', async () => {
    const damage = { switching: false };
    await using pair = await memoryPair(dir, {
      down: {
        tamper: (type, payload) => {
          if (type === MESSAGE_STREAM && damage.switching) {
            const last = payload.length - 1;
            payload.writeUInt8(payload.readUInt8(last) ^ 1, last);
          }
          return payload;
        },
      },
    });
    await write(pair, roundOne(30));
    await pair.source.drained();
    const before = pair.incoming.received().length;
    damage.switching = true;
    pair.source.beginSwitch();
    await write(pair, Buffer.concat([packaged(), postcopyPages(100, 5)]));
    const code = await pair.target.failed.catch(errorCode);
    expect(code).toMatch(/^(STREAM|CODEC)_/);
    await sleep(30);
    expect(pair.takenAtBytes()).toBeUndefined();
    expect(pair.incoming.received().length).toBe(before);
  });

  test('messages twice, behind the end, on a channel that is not there', async () => {
    let seen: Buffer | undefined;
    await using pair = await memoryPair(dir, {
      down: {
        tamper: (type, payload) => {
          if (type === MESSAGE_STREAM) seen ??= Buffer.from(payload);
          return payload;
        },
      },
    });
    await write(pair, roundOne(30));
    await eventually(() => seen !== undefined);
    await pair.source.drained();
    const message = seen ?? Buffer.alloc(0);
    expect(decodeStreamMessage(message).sequence).toBe(0);
    const codeOf = (run: () => unknown): string => {
      try {
        run();
        return 'none';
      } catch (error) {
        return errorCode(error);
      }
    };
    const { target } = pair;
    expect(codeOf(() => target.handle(message, 'bulk'))).toBe('MOVER_PROTOCOL');
    const preempt = Buffer.from(message).fill(1, 0, 1);
    expect(codeOf(() => target.handle(preempt, 'urgent'))).toBe('MOVER_PROTOCOL');
    const endAt = (messages: number): Buffer => {
      const out = Buffer.alloc(8);
      out.writeUInt32BE(messages, 4);
      return out;
    };
    expect(codeOf(() => target.handleEnd(endAt(0)))).toBe('MOVER_PROTOCOL');
    target.handleEnd(endAt(1_000));
    expect(codeOf(() => target.handleEnd(endAt(1_000)))).toBe('MOVER_PROTOCOL');
    const late = Buffer.from(message);
    late.writeUInt32BE(1_000, 4);
    expect(codeOf(() => target.handle(late, 'bulk'))).toBe('MOVER_PROTOCOL');
  });

  test('messages out of order are bounded', async () => {
    await using pair = await memoryPair(dir);
    const message = Buffer.alloc(64);
    const flood = (): void => {
      for (let sequence = 1; sequence < 10_000; sequence++) {
        message.writeUInt32BE(sequence, 4);
        void pair.target.handle(Buffer.from(message), 'urgent');
      }
    };
    expect(flood).toThrow(expect.objectContaining({ code: 'MOVER_PROTOCOL' }));
  });

  test('the target’s QEMU has gone', async () => {
    await using pair = await memoryPair(dir);
    await write(pair, roundOne(3));
    await pair.source.drained();
    pair.incoming.sockets[0]?.destroy();
    pair.main.write(roundOne(2000));
    await expect(pair.target.failed).rejects.toMatchObject({ code: 'MOVER_QEMU_TARGET' });
  });
});
