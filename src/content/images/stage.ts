import { contentOfDisk, ensurePageIndex } from '../pages/store.ts';
import { stageFolder } from './folders.ts';
import type { Image, ImageStore } from './store.ts';

/** Puts an image of one store into another on this machine, whole or not at all. @throws what the file system says */
export async function stageImage(image: Image, store: ImageStore): Promise<Image> {
  const { digest } = image.manifest;
  const present = await store.get(digest).catch(() => undefined);
  if (present) return present;
  // Made once and linked with the rest; a site that has none makes its own when it first needs it.
  await ensurePageIndex(contentOfDisk(image.diskPath)).catch(() => {});
  await stageFolder(image.folder, store.folder);
  return store.get(digest);
}
