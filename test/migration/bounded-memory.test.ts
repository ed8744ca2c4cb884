import { expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import { MOVER_NODE_FLAGS, MOVER_RSS_LIMIT_MIB } from '../../src/migration/mover/limits.ts';

async function peakRssMiB(codec: string, streamMiB: number): Promise<number> {
  const args = [...MOVER_NODE_FLAGS, 'test/kit/memoryLoad.ts', codec, `${streamMiB}`];
  const { stdout } = await run(process.execPath, args);
  return (JSON.parse(stdout) as { peakRssMiB: number }).peakRssMiB;
}

test.each([
  ['rle', 128],
  ['zstd', 48],
] as const)('a VM eight times as large takes no more memory to move (%s)', async (codec, streamMiB) => {
  const small = await peakRssMiB(codec, streamMiB);
  const large = await peakRssMiB(codec, 8 * streamMiB);
  expect(large).toBeLessThan(MOVER_RSS_LIMIT_MIB);
  expect(large - small).toBeLessThan(32);
});
