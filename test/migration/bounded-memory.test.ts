import { expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import { median } from '../../src/bench/kit/stats.ts';
import { RETAINED_BYTES } from '../../src/migration/memory/retained.ts';
import { MOVER_NODE_FLAGS, MOVER_RSS_LIMIT_MIB } from '../../src/migration/mover/limits.ts';
import { PAGE_BYTES, REPEAT_WINDOW_PAGES } from '../../src/wire/qemu-stream/constants.ts';

const MIB = 1024 * 1024;

interface Load {
  readonly peakRssMiB: number;
  readonly pagesReferenced: number;
  readonly pagesDuplicate: number;
}

async function load(codec: string, streamMiB: number): Promise<Load> {
  const args = [...MOVER_NODE_FLAGS, 'test/kit/memoryLoad.ts', codec, `${streamMiB}`];
  const { stdout } = await run(process.execPath, args);
  return JSON.parse(stdout) as Load;
}

/**
 * Garbage that waits for its collection makes the peaks of two runs of the same stream differ by as much as 35 MiB,
 * either way: what a larger stream adds is seen between medians.
 */
async function loads(codec: string, streamMiB: number): Promise<Load[]> {
  const runs: Load[] = [];
  for (let i = 0; i < 3; i++) runs.push(await load(codec, streamMiB));
  return runs;
}

function expectBounded(small: readonly Load[], large: readonly Load[], limitMiB: number): void {
  const smallMiB = small.map((run) => run.peakRssMiB);
  const largeMiB = large.map((run) => run.peakRssMiB);
  for (const peakMiB of largeMiB) expect(peakMiB).toBeLessThan(limitMiB);
  expect(median(largeMiB) - median(smallMiB)).toBeLessThan(32);
}

test.each([
  ['rle', 128],
  ['zstd', 48],
] as const)('a VM eight times as large takes no more memory to move (%s)', async (codec, streamMiB) => {
  const small = await loads(codec, streamMiB);
  const large = await loads(codec, 8 * streamMiB);
  expectBounded(small, large, MOVER_RSS_LIMIT_MIB);
});

test('nor does one whose pages are referred to and repeated, once the windows are full (content)', async () => {
  // both halves run in one process here: the windows of two movers, what one retains and the other has loaded
  const otherHalfMiB = (REPEAT_WINDOW_PAGES * PAGE_BYTES + 2 * RETAINED_BYTES) / MIB;
  // at 112 MiB the windows have only just filled, and what V8 holds still grows; at twice that it hardly does
  const small = await loads('content', 224);
  const large = await loads('content', 3 * 224);
  for (const run of large) {
    expect(run.pagesReferenced).toBeGreaterThan(40_000);
    expect(run.pagesDuplicate).toBeGreaterThan(8_000);
  }
  expectBounded(small, large, MOVER_RSS_LIMIT_MIB + otherHalfMiB);
});
