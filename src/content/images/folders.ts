/** What stores of content-addressed folders have in common: `<store>/<digest>/manifest.json` and the files it names. */
import { randomBytes } from 'node:crypto';
import { chmod, copyFile, link, mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { processAlive } from '../../base/process.ts';
import { MAX_MANIFEST_BYTES, MIN_DIGEST_PREFIX_LENGTH } from './constants.ts';

const TEMPORARY = '.new-';

/** A new name in a store for what is not whole yet. */
export function temporaryFolder(store: string): string {
  return join(store, `${TEMPORARY}${process.pid}-${randomBytes(6).toString('hex')}`);
}

/**
 * Makes a store's folder if need be and removes what processes that died have left in it.
 * @param onLeft called before such a folder is removed
 */
export async function openStoreFolder(
  store: string,
  onLeft: (folder: string) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  await mkdir(store, { recursive: true });
  for (const entry of await readdir(store)) {
    const pid = /^\.new-(\d+)-/.exec(entry)?.[1];
    if (!pid || processAlive(Number(pid))) continue;
    await onLeft(join(store, entry));
    await rm(join(store, entry), { recursive: true, force: true });
  }
}

/** A manifest's JSON; undefined where there is no such folder. @throws RangeError on one that is too long, SyntaxError */
export async function readManifestJson(path: string): Promise<unknown> {
  try {
    const { size } = await stat(path);
    if (size > MAX_MANIFEST_BYTES) throw new RangeError(`${path} has ${size} bytes`);
    return JSON.parse(await readFile(path, 'utf8')) as unknown;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** Those that a name (the first of that name) or the beginning of a digest may mean. */
export function matching<T extends { readonly manifest: { readonly digest: string; readonly name: string } }>(
  items: readonly T[],
  reference: string,
): readonly T[] {
  const named = items.find(({ manifest }) => manifest.name === reference);
  if (named) return [named];
  if (reference.length < MIN_DIGEST_PREFIX_LENGTH) return [];
  return items.filter(({ manifest }) => manifest.digest.startsWith(reference));
}

/**
 * Puts a folder of one store into another on this machine, whole or not at all. Its files never change, so they are
 * linked where both stores lie on one file system. @throws what the file system says
 */
export async function stageFolder(folder: string, store: string): Promise<void> {
  const temporary = temporaryFolder(store);
  await mkdir(temporary);
  try {
    for (const file of await readdir(folder)) {
      if (file.startsWith('.')) continue;
      const from = join(folder, file);
      const to = join(temporary, file);
      await link(from, to).catch(async () => {
        await copyFile(from, to);
        await chmod(to, (await stat(from)).mode & 0o777);
      });
    }
    await rename(temporary, join(store, basename(folder)));
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
