import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { seeded } from '../../../test/migration/disk-link.ts';
import { memoryPair, type MemoryPair } from '../../../test/kit/memoryPair.ts';
import { QemuMemory } from '../../../test/kit/qemuMemory.ts';
import { noisePage, RAM_ID } from '../../../test/kit/qemuStream.ts';
import { type TempDir, tempDir } from '../../../test/kit/tempdir.ts';
import { sleep } from '../../base/async.ts';
import type { PagesRead } from '../../content/pages/reader.ts';
import { COMMAND_POSTCOPY_RAM_DISCARD, PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { encodePageRequest, ReturnPathParser } from '../../wire/qemu-stream/returnPath.ts';
import { StreamWriter } from '../../wire/qemu-stream/writer.ts';

let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir[Symbol.asyncDispose]());

const RAM = 'pc.ram';
const VRAM = 'vga.vram';
const PAGES = 600;
const SHELF = 64;
/** Content that both sides have, by number. */
const shelf = Array.from({ length: SHELF }, (_, number) => noisePage(10_000 + 2 * number));
const numberOf = new Map(shelf.map((page, number) => [page.toString('latin1'), number]));
const ZERO = Buffer.alloc(PAGE_BYTES);

/** The target's files; `damaged` are found to be damaged when they are looked at, `lost` only when they are read. */
function files(damaged: ReadonlySet<number> = new Set(), lost: ReadonlySet<number> = new Set()) {
  const positions = (ordinals: Float64Array, bad: ReadonlySet<number>): Uint32Array =>
    Uint32Array.from([...ordinals].flatMap((ordinal, i) => (bad.has(ordinal) ? [i] : [])));
  return {
    read: (ordinals: Float64Array): Promise<PagesRead> =>
      Promise.resolve({
        bodies: Buffer.concat([...ordinals].map((ordinal) => shelf[ordinal] ?? ZERO)),
        missing: positions(ordinals, new Set([...damaged, ...lost])),
      }),
    verify: (ordinals: Float64Array) =>
      Promise.resolve({
        crcs: Uint32Array.from(ordinals, (ordinal) => crc32(shelf[ordinal] ?? ZERO)),
        missing: positions(ordinals, damaged),
      }),
  };
}

const content = (reader = files()) => ({
  lookup: {
    find: (buf: Buffer, start: number) =>
      numberOf.get(buf.toString('latin1', start, start + PAGE_BYTES)) ?? -1,
  },
  reader,
  repeatPages: 16,
  hold: true,
});

/** A guest's memory and the stream in which a QEMU that runs it sends it. */
class Guest {
  readonly memory = new Map<string, Buffer>();
  readonly #random: () => number;
  /** Of round one: what was sent of each page is not what it is by now. */
  readonly dirty = new Set<number>();

  constructor(seed: number) {
    this.#random = seeded(seed);
    for (let page = 0; page < PAGES; page++) this.#set(RAM, page, this.#content());
    for (let page = 0; page < 8; page++) this.#set(VRAM, page, page % 2 ? ZERO : noisePage(page));
  }

  #set(block: string, page: number, body: Buffer): void {
    this.memory.set(`${block} ${page}`, body);
  }

  #content(): Buffer {
    const kind = this.#random();
    if (kind < 0.4) return ZERO;
    if (kind < 0.8) return shelf[Math.floor(this.#random() * SHELF)] ?? ZERO;
    return noisePage(Math.floor(this.#random() * 1000));
  }

  #record(writer: StreamWriter, block: string, page: number, name: boolean): void {
    const body = this.memory.get(`${block} ${page}`) ?? ZERO;
    if (body.equals(ZERO)) writer.zeroPage(page, name ? block : undefined);
    else writer.dataPage(page, body, name ? block : undefined);
  }

  /** All pages once, then some of them again as the guest has changed them. */
  roundOne(): Buffer {
    const writer = new StreamWriter().fileHeader().configuration('pc-i440fx-7.2');
    writer.sectionStart(RAM_ID).memSize([
      { name: RAM, lengthBytes: PAGES * PAGE_BYTES },
      { name: VRAM, lengthBytes: 8 * PAGE_BYTES },
    ]);
    writer.eos().footer(RAM_ID).sectionPart(RAM_ID);
    for (let page = 0; page < PAGES; page++) {
      this.#record(writer, RAM, page, page === 0);
      if (page % 100 === 99) writer.eos().footer(RAM_ID).sectionPart(RAM_ID);
    }
    for (let page = 0; page < 8; page++) this.#record(writer, VRAM, page, page === 0);
    for (let i = 0; i < 60; i++) {
      const page = Math.floor(this.#random() * PAGES);
      this.#set(RAM, page, this.#content());
      this.#record(writer, RAM, page, i === 0);
    }
    return writer.eos().footer(RAM_ID).take();
  }

  /** The guest writes on; QEMU has the target discard what it wrote. */
  discards(): Buffer {
    const writer = new StreamWriter();
    for (let i = 0; i < 80; i++) this.dirty.add(Math.floor(this.#random() * PAGES));
    for (const page of this.dirty) {
      this.#set(RAM, page, this.#content());
      const data = Buffer.alloc(3 + RAM.length + 16);
      data.writeUInt8(RAM.length, 1);
      data.write(RAM, 2, 'latin1');
      data.writeBigUInt64BE(BigInt(page * PAGE_BYTES), 3 + RAM.length);
      data.writeBigUInt64BE(BigInt(PAGE_BYTES), 3 + RAM.length + 8);
      writer.command(COMMAND_POSTCOPY_RAM_DISCARD, data);
    }
    return writer.take();
  }

  /** Some of what was discarded. */
  postCopy(pages: readonly number[]): Buffer {
    const writer = new StreamWriter().sectionPart(RAM_ID);
    for (const [i, page] of pages.entries()) this.#record(writer, RAM, page, i === 0);
    return writer.eos().footer(RAM_ID).take();
  }

  expectIn(qemu: QemuMemory): void {
    const wrong = [...this.memory].filter(([key, body]) => {
      const [block = '', page = ''] = key.split(' ');
      return !qemu.get(block, Number(page)).equals(body);
    });
    expect(wrong.map(([key]) => key)).toEqual([]);
  }
}

const packaged = (): Buffer => new StreamWriter().packaged(Buffer.alloc(50_000, 'state')).take();
const end = (): Buffer => new StreamWriter().bytes([0]).take();

async function write(pair: MemoryPair, bytes: Buffer, pieces: () => number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const size = 1 + Math.floor(pieces() * 40_000);
    await new Promise<void>((resolve) => {
      pair.main.write(bytes.subarray(at, at + size), () => resolve());
    });
    at += size;
  }
}

async function eventually(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(2);
}

/** Feeds what QEMU has received so far into the model. */
function follow(pair: MemoryPair): { qemu: QemuMemory; take: () => void } {
  const qemu = new QemuMemory();
  let taken = 0;
  return {
    qemu,
    take: () => {
      const all = pair.incoming.received();
      qemu.push(all.subarray(taken));
      taken = all.length;
    },
  };
}

/** The pages that were asked for; the source asks for those beside them by itself. */
const requests = (pair: MemoryPair): string[] =>
  new ReturnPathParser()
    .push(pair.returned())
    .flatMap((message) =>
      message.kind === 'request-pages' && message.lengthBytes === PAGE_BYTES
        ? [`${message.block} ${Number(message.startByte) / PAGE_BYTES}`]
        : [],
    );

describe('pages that are held back in round one', () => {
  test.each([1, 2, 3, 4, 5, 6])('are all there in the end, each placed once (seed %i)', async (seed) => {
    const random = seeded(1000 + seed);
    const jitter = { delayTurns: (): number => Math.floor(random() * 4) };
    await using pair = await memoryPair(dir, { codec: 'zstd', content: content(), down: jitter, up: jitter });
    const guest = new Guest(seed);
    const { qemu, take } = follow(pair);
    await write(pair, guest.roundOne(), random);
    await pair.source.drained();
    // up to here QEMU got what is new, and nothing else of the VM's memory
    await eventually(() => pair.incoming.bytes > 0);
    take();
    // (in the first frame QEMU's blocks are not known yet)
    const known = [...qemu.pages].filter(
      ([key, body]) =>
        key.startsWith(RAM) && Number(key.split(' ')[1]) >= 300 && numberOf.has(body.toString('latin1')),
    );
    expect(known.length).toBeLessThan(60);
    pair.source.beginSwitch();
    await write(pair, Buffer.concat([guest.discards(), packaged()]), random);
    await eventually(() => pair.takenAtBytes() !== undefined);
    const [dirty, asked] = [[...guest.dirty], Array.from({ length: 40 }, () => Math.floor(random() * PAGES))];
    for (const page of asked.slice(0, 20))
      pair.incoming.sockets[0]?.write(encodePageRequest(RAM, page * PAGE_BYTES, PAGE_BYTES));
    await write(pair, guest.postCopy(dirty.slice(0, 30)), random);
    pair.target.resumed();
    for (const page of asked.slice(20))
      pair.incoming.sockets[0]?.write(encodePageRequest(RAM, page * PAGE_BYTES, PAGE_BYTES));
    await write(pair, guest.postCopy(dirty.slice(30)), random);
    await write(pair, end(), random);
    pair.main.end();
    await pair.incoming.ended();
    take();
    expect(qemu.ended).toBe(true);
    guest.expectIn(qemu);
    // the source is asked for what only it has
    for (const request of requests(pair)) expect(guest.dirty.has(Number(request.split(' ')[1]))).toBe(true);
    expect(pair.target.held.placedOnRequest).toBeGreaterThan(0);
  });

  test('a page that is asked for comes while the source is silent, and without a question to it', async () => {
    await using pair = await memoryPair(dir, { codec: 'zstd', content: content() });
    const guest = new Guest(77);
    const { qemu, take } = follow(pair);
    await write(pair, guest.roundOne(), () => 1);
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, packaged(), () => 1);
    await eventually(() => pair.takenAtBytes() !== undefined);
    pair.down.cut();
    take();
    const isZero = (body: Buffer | undefined): boolean => body?.equals(ZERO) ?? true;
    const absent = [...guest.memory.keys()].filter((key) => key.startsWith(RAM) && !qemu.pages.has(key));
    const zero = absent.find((key) => isZero(guest.memory.get(key))) ?? '';
    const known = absent.find((key) => !isZero(guest.memory.get(key))) ?? '';
    for (const key of [known, zero]) {
      const page = Number(key.split(' ')[1]);
      pair.incoming.sockets[0]?.write(encodePageRequest(RAM, page * PAGE_BYTES, PAGE_BYTES));
      await eventually(() => {
        take();
        return qemu.pages.has(key);
      });
      expect(qemu.pages.get(key)?.equals(guest.memory.get(key) ?? ZERO)).toBe(true);
    }
    expect(requests(pair)).toEqual([]);
  });

  test('what turns out to be damaged is sent, before the switch', async () => {
    const damaged = new Set([3, 4, 5, 20, 21]);
    await using pair = await memoryPair(dir, { codec: 'zstd', content: content(files(damaged)) });
    const guest = new Guest(5);
    const { qemu, take } = follow(pair);
    await write(pair, guest.roundOne(), () => 1);
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, Buffer.concat([packaged(), end()]), () => 1);
    pair.main.end();
    await pair.incoming.ended();
    take();
    guest.expectIn(qemu);
    expect(pair.source.stats().pagesResent).toBeGreaterThan(0);
  });

  test('QEMU that completes as pre-copy has them before its device state', async () => {
    await using pair = await memoryPair(dir, { codec: 'zstd', content: content() });
    const guest = new Guest(6);
    const { qemu, take } = follow(pair);
    await write(pair, guest.roundOne(), () => 1);
    const json = Buffer.from(JSON.stringify({ devices: ['pc'] }));
    const state = Buffer.concat([
      Buffer.from([4]),
      noisePage(7),
      Buffer.from([0, 6, 0, 0, 0, json.length]),
      json,
    ]);
    const tail = Buffer.concat([new StreamWriter().sectionEnd(RAM_ID).eos().footer(RAM_ID).take(), state]);
    await write(pair, tail, () => 1);
    pair.main.end();
    await pair.incoming.ended();
    take();
    guest.expectIn(qemu);
    const all = pair.incoming.received();
    expect(all.subarray(-state.length).equals(state)).toBe(true);
  });

  test('a file that loses them after the switch: QEMU waits, and it is said why', async () => {
    const lost = new Set(shelf.keys());
    await using pair = await memoryPair(dir, { codec: 'zstd', content: content(files(new Set(), lost)) });
    const guest = new Guest(8);
    await write(pair, guest.roundOne(), () => 1);
    await pair.source.drained();
    pair.source.beginSwitch();
    await write(pair, packaged(), () => 1);
    await eventually(() => pair.takenAtBytes() !== undefined);
    pair.target.resumed();
    await expect(pair.target.failed).rejects.toMatchObject({ code: 'MOVER_CONTENT_LOST' });
    await write(pair, end(), () => 1);
    await sleep(50);
    const { qemu, take } = follow(pair);
    take();
    expect(qemu.ended).toBe(false);
  });
});
