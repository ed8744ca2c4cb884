import { truncate, writeFile } from 'node:fs/promises';
import { assetPath } from './assets.ts';
import { runStep } from './steps.ts';

/** Compiles `assets/workload.c` to a static program that needs no libc. @throws GUEST_TOOL, GUEST_STEP */
export async function compileWorkload(target: string, signal?: AbortSignal): Promise<void> {
  await runStep('tcc', ['-nostdlib', '-static', '-o', target, assetPath('workload.c')], { signal });
}

/** Writes a disk in which every 4 KiB block is version 0 of itself: what the workload expects to find at first. */
export async function fillDisk(
  workload: string,
  target: string,
  sizeBytes: number,
  signal?: AbortSignal,
): Promise<void> {
  await writeFile(target, '');
  await truncate(target, sizeBytes);
  await runStep(workload, ['fill', target], { signal });
}
