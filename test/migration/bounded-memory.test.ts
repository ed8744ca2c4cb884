import { expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import { RETAINED_BYTES } from '../../src/migration/memory/retained.ts';
import { MOVER_NODE_FLAGS, MOVER_RSS_LIMIT_MIB } from '../../src/migration/mover/limits.ts';
import { PAGE_BYTES, REPEAT_WINDOW_PAGES } from '../../src/wire/qemu-stream/constants.ts';

const MIB = 1024 * 1024;

/**
 * What may stay in use on top for a larger stream. Peaks are held against the mover's limit; between two runs they
 * differ by as much as 60 MiB, which is garbage that waits for its collection and depends on what else the machine does.
 */
const LIVE_GROWTH_MIB = 8;

interface Load {
  readonly peakRssMiB: number;
  readonly liveMiB: number;
  readonly pagesReferenced: number;
  readonly pagesDuplicate: number;
}

async function load(codec: string, streamMiB: number): Promise<Load> {
  const args = [...MOVER_NODE_FLAGS, '--expose-gc', 'test/kit/memoryLoad.ts', codec, `${streamMiB}`];
  const { stdout } = await run(process.execPath, args);
  return JSON.parse(stdout) as Load;
}

test.each([
  ['rle', 128],
  ['zstd', 48],
] as const)('a VM eight times as large takes no more memory to move (%s)', async (codec, streamMiB) => {
  const small = await load(codec, streamMiB);
  const large = await load(codec, 8 * streamMiB);
  expect(large.peakRssMiB).toBeLessThan(MOVER_RSS_LIMIT_MIB);
  expect(large.liveMiB - small.liveMiB).toBeLessThan(LIVE_GROWTH_MIB);
});

test('nor does one whose pages are referred to and repeated, once the windows are full (content)', async () => {
  // both halves run in one process here: the windows of two movers, what one retains and the other has loaded
  const otherHalfMiB = (REPEAT_WINDOW_PAGES * PAGE_BYTES + 2 * RETAINED_BYTES) / MIB;
  const small = await load('content', 112);
  const large = await load('content', 4 * 112);
  expect(large.pagesReferenced).toBeGreaterThan(40_000);
  expect(large.pagesDuplicate).toBeGreaterThan(8_000);
  expect(large.peakRssMiB).toBeLessThan(MOVER_RSS_LIMIT_MIB + otherHalfMiB);
  expect(large.liveMiB - small.liveMiB).toBeLessThan(LIVE_GROWTH_MIB);
});
