import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { sleep } from '../../base/async.ts';
import { processAlive } from '../../base/process.ts';
import { LOCK_POLL_MS } from './constants.ts';

/**
 * Holds the lock file `path` until disposed, so that only one builder at a time works in a cache folder. Waits for
 * another living holder; the lock of one that has died is taken over.
 */
export async function lockFile(
  path: string,
  options: { signal?: AbortSignal | undefined; onWait?: (holderPid: number) => void } = {},
): Promise<AsyncDisposable> {
  await mkdir(dirname(path), { recursive: true });
  for (;;) {
    options.signal?.throwIfAborted();
    try {
      await writeFile(path, String(process.pid), { flag: 'wx' });
      return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const holder = Number(await readFile(path, 'latin1').catch(() => ''));
    // An empty file is one whose writer is between creating and writing it.
    if (holder > 0 && !processAlive(holder)) await rm(path, { force: true });
    else options.onWait?.(holder);
    await sleep(LOCK_POLL_MS, options.signal);
  }
}
