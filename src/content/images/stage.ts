import { chmod, copyFile, link, mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { contentOfDisk, ensurePageIndex } from '../pages/store.ts';
import type { Image, ImageStore } from './store.ts';

/**
 * Puts an image of one store into another on this machine, whole or not at all. Files of an image never change, so
 * they are linked where both stores lie on one file system. @throws what the file system says
 */
export async function stageImage(image: Image, store: ImageStore): Promise<Image> {
  const { digest } = image.manifest;
  const present = await store.get(digest).catch(() => undefined);
  if (present) return present;
  // Made once and linked with the rest; a site that has none makes its own when it first needs it.
  await ensurePageIndex(contentOfDisk(image.diskPath)).catch(() => {});
  const temporary = store.temporaryFolder();
  await mkdir(temporary);
  try {
    for (const file of await readdir(image.folder)) {
      if (file.startsWith('.')) continue;
      const from = join(image.folder, file);
      const to = join(temporary, file);
      await link(from, to).catch(async () => {
        await copyFile(from, to);
        await chmod(to, 0o444);
      });
    }
    await rename(temporary, join(store.folder, digest));
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return store.get(digest);
}
