import { describe, expect, test } from 'vitest';
import { noisePage } from '../../../test/kit/qemuStream.ts';
import { errorCode } from '../../base/errors.ts';
import type { PagesRead } from '../../content/pages/reader.ts';
import { StreamEncoder } from '../../wire/qemu-stream/encoder.ts';
import { StreamWriter } from '../../wire/qemu-stream/writer.ts';
import {
  decodeContentBytes,
  decodeContentMissing,
  decodeDecoded,
  encodeContentMissing,
  encodeDecoded,
  MESSAGE_CONTENT_MISSING,
  MESSAGE_DECODED,
} from '../messages.ts';
import { References } from './references.ts';
import { RETAINED_BYTES, RetainedContent } from './retained.ts';

const PAGE = 4096;
const pages = (...seeds: number[]): Buffer => Buffer.concat(seeds.map((seed) => noisePage(seed)));
const codeOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return errorCode(error);
  }
  return 'none';
};

/** A frame that refers to pages 0, 1, ... of the target. */
function frameOf(seeds: readonly number[]): Buffer {
  const writer = new StreamWriter();
  for (const [i, seed] of seeds.entries()) writer.dataPage(i, noisePage(seed), i === 0 ? 'ram' : undefined);
  const frames: Buffer[] = [];
  const encoder = new StreamEncoder({ mode: 'ram' }, (frame) => frames.push(frame.payload));
  encoder.useContent(
    { find: (buf, start) => seeds.findIndex((s) => noisePage(s).equals(buf.subarray(start, start + PAGE))) },
    0,
  );
  encoder.push(writer.eos().take());
  encoder.end();
  return frames[0] ?? Buffer.alloc(0);
}

/** A target whose files lack some pages, and what it says to the source. */
function target(missing: readonly number[], seeds: readonly number[]) {
  const said: { type: number; payload: Buffer }[] = [];
  const read = (ordinals: Float64Array): Promise<PagesRead> => {
    const list = [...ordinals];
    const bodies = pages(...list.map((ordinal) => seeds[ordinal] ?? 0));
    const bad = list.flatMap((ordinal, i) => (missing.includes(ordinal) ? [i] : []));
    for (const i of bad) bodies.fill(0xee, i * PAGE, (i + 1) * PAGE);
    return Promise.resolve({ bodies, missing: Uint32Array.from(bad) });
  };
  const references = new References({
    reader: { read },
    send: (type, payload) => said.push({ type, payload }),
  });
  return { references, said };
}

const seeds = [1, 3, 5, 7, 9];

describe('pages that the target turns out not to have', () => {
  test('are asked for by their place in the frame, and come from what the source keeps', async () => {
    const { references, said } = target([1, 4], seeds);
    const retained = new RetainedContent();
    await retained.add(6, pages(11));
    await retained.add(7, pages(...seeds));
    const loading = references.load(1, 7, frameOf(seeds));
    while (said.length === 0) await Promise.resolve();
    expect(said.map(({ type }) => type)).toEqual([MESSAGE_CONTENT_MISSING]);
    const missing = decodeContentMissing(said[0]?.payload ?? Buffer.alloc(0));
    expect(missing).toEqual({ channel: 1, sequence: 7, positions: [1, 4] });
    references.handleBytes(retained.answer(missing));
    expect((await loading)?.equals(pages(...seeds))).toBe(true);
    expect(references.resentPages).toBe(2);
  });

  test('nothing is asked where all is well, or where a frame refers to nothing', async () => {
    const { references, said } = target([], seeds);
    expect((await references.load(0, 0, frameOf(seeds)))?.length).toBe(5 * PAGE);
    expect(references.load(0, 1, frameOf([]))).toBeUndefined();
    expect(said).toEqual([]);
  });

  test('a peer that answers what was not asked, or asks what was not sent', () => {
    const { references } = target([], seeds);
    const retained = new RetainedContent();
    void retained.add(3, pages(1, 3));
    const answer = retained.answer({ channel: 0, sequence: 3, positions: [0] });
    expect(codeOf(() => references.handleBytes(answer))).toBe('MOVER_PROTOCOL');
    expect(codeOf(() => retained.answer({ channel: 0, sequence: 3, positions: [2] }))).toBe('MOVER_PROTOCOL');
    expect(codeOf(() => retained.answer({ channel: 0, sequence: 4, positions: [0] }))).toBe('MOVER_PROTOCOL');
    retained.release(3);
    expect(codeOf(() => retained.answer({ channel: 0, sequence: 3, positions: [0] }))).toBe('MOVER_PROTOCOL');
    const without = new References({ reader: undefined, send: () => {} });
    expect(codeOf(() => without.load(0, 0, frameOf(seeds)))).toBe('MOVER_PROTOCOL');
  });

  test('an answer of another length fails what waits for it', async () => {
    const { references, said } = target([0, 1], seeds);
    const retained = new RetainedContent();
    await retained.add(0, pages(...seeds));
    const loading = references.load(0, 0, frameOf(seeds));
    while (said.length === 0) await Promise.resolve();
    references.handleBytes(retained.answer({ channel: 0, sequence: 0, positions: [0] }));
    await expect(loading).rejects.toMatchObject({ code: 'MOVER_PROTOCOL' });
  });
});

test('the source keeps a bounded amount, and waits for the target beyond it', async () => {
  const retained = new RetainedContent();
  const half = Buffer.alloc(RETAINED_BYTES / 2);
  await retained.add(1, half);
  await retained.add(4, half);
  let room = false;
  const waiting = retained.add(5, half).then(() => {
    room = true;
  });
  await Promise.resolve();
  expect(room).toBe(false);
  retained.release(3);
  await waiting;
  expect(retained.answer({ channel: 0, sequence: 4, positions: [0] }).length).toBeGreaterThan(8);
  retained.release(5);
  expect(codeOf(() => retained.answer({ channel: 0, sequence: 5, positions: [0] }))).toBe('MOVER_PROTOCOL');
});

test('the target says now and then how far it has come, channel by channel, and takes only so much', async () => {
  const { references, said } = target([], seeds);
  for (let sequence = 0; sequence < 120; sequence++) {
    for (const channel of [0, 1] as const) {
      const bodies = await references.load(channel, sequence, frameOf(seeds));
      references.decoded(channel, sequence, bodies ?? Buffer.alloc(0));
    }
  }
  expect(said.map(({ type }) => type)).toEqual(Array.from({ length: 4 }, () => MESSAGE_DECODED));
  expect(said.map(({ payload }) => decodeDecoded(payload))).toEqual([
    { channel: 0, sequence: 51 },
    { channel: 1, sequence: 51 },
    { channel: 0, sequence: 103 },
    { channel: 1, sequence: 103 },
  ]);
  const frame = frameOf(seeds);
  const code = codeOf(() => {
    for (let sequence = 200; sequence < 4000; sequence++) void references.load(0, sequence, frame);
  });
  expect(code).toBe('MOVER_PROTOCOL');
});

test('content messages that are malformed', () => {
  const missing = encodeContentMissing({ channel: 0, sequence: 1, positions: [1, 2] });
  const changed = (at: number, value: number): Buffer => {
    const bad = Buffer.from(missing);
    bad[at] = value;
    return bad;
  };
  expect(decodeContentMissing(missing).positions).toEqual([1, 2]);
  for (const bad of [
    changed(0, 2),
    changed(2, 1),
    missing.subarray(0, 9),
    missing.subarray(0, 8),
    Buffer.alloc(8000),
  ])
    expect(codeOf(() => decodeContentMissing(bad))).toBe('MOVER_PROTOCOL');
  expect(codeOf(() => decodeDecoded(missing))).toBe('MOVER_PROTOCOL');
  expect(decodeDecoded(encodeDecoded({ channel: 1, sequence: 5 }))).toEqual({ channel: 1, sequence: 5 });
  expect(codeOf(() => decodeContentBytes(Buffer.alloc(11)))).toBe('MOVER_PROTOCOL');
  expect(codeOf(() => decodeContentBytes(Buffer.alloc(12, 0xff)))).toBe('MOVER_PROTOCOL');
});
