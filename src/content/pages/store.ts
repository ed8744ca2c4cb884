import { randomBytes } from 'node:crypto';
import { open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { processAlive } from '../../base/process.ts';
import { buildPageIndex, type IndexProgress } from './builder.ts';
import { INDEX_FILE } from './constants.ts';
import { fail } from './errors.ts';
import { decodePageIndex, INDEX_MAX_BYTES, type PageIndex } from './page-index.ts';

/** A file whose pages may be referred to, and its index. */
export interface ContentFile {
  readonly path: string;
  readonly indexPath: string;
}

/**
 * What a migration may refer to. Images and templates stay; residue is what a site keeps of this one VM. The source
 * needs only the index: of the target's residue it has nothing else.
 */
export interface Content {
  readonly kind?: ContentKind | undefined;
  readonly path?: string | undefined;
  readonly indexPath: string;
}
export const CONTENT_KINDS = ['image', 'template', 'residue'] as const;
export type ContentKind = (typeof CONTENT_KINDS)[number];

/**
 * The index of an image's disk stands beside it. It is derived from the disk and no part of the image: it appears whole (by
 * rename), may be missing, and is replaced when it is damaged.
 */
export function contentOfDisk(diskPath: string): ContentFile {
  return { path: diskPath, indexPath: join(dirname(diskPath), INDEX_FILE) };
}

/**
 * Reads an index and checks it, also against the length of the file that it speaks of, where that is here.
 * @throws PAGES_INDEX_MISSING, PAGES_INDEX_DAMAGED, PAGES_INDEX_VERSION
 */
export async function loadPageIndex({ path, indexPath }: Content): Promise<PageIndex> {
  const index = decodePageIndex(await readIndex(indexPath));
  if (path === undefined) return index;
  const { size } = await stat(path).catch((cause: unknown) => {
    throw fail('PAGES_INDEX_DAMAGED', `${path} is not there`, { cause });
  });
  if (size !== index.fileBytes) throw fail('PAGES_INDEX_DAMAGED', `${path} has ${size} bytes`);
  return index;
}

async function readIndex(path: string): Promise<Buffer> {
  try {
    await using file = await open(path, 'r');
    const { size } = await file.stat();
    if (size > INDEX_MAX_BYTES) throw fail('PAGES_INDEX_DAMAGED', `${path} has ${size} bytes`);
    const bytes = Buffer.from(new ArrayBuffer(size));
    let filled = 0;
    while (filled < size) {
      const { bytesRead } = await file.read(bytes, filled, size - filled, filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
    return bytes.subarray(0, filled);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === undefined) throw cause;
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT')
      throw fail('PAGES_INDEX_MISSING', path, { cause });
    if ((cause as { code: string }).code.startsWith('PAGES_')) throw cause;
    throw fail('PAGES_INDEX_DAMAGED', path, { cause });
  }
}

/** Makes the index and puts it in place, whatever stood there. @throws PAGES_NOT_INDEXED, the signal's reason */
export async function makePageIndex(file: ContentFile, call: IndexProgress = {}): Promise<void> {
  const folder = dirname(file.indexPath);
  const temporary = join(folder, `.${INDEX_FILE}-${process.pid}-${randomBytes(6).toString('hex')}`);
  try {
    await sweep(folder);
    const bytes = await buildPageIndex(file.path, call);
    {
      await using out = await open(temporary, 'wx', 0o444);
      await out.writeFile(bytes);
      await out.datasync();
    }
    await rename(temporary, file.indexPath);
  } catch (cause) {
    call.signal?.throwIfAborted();
    throw fail('PAGES_NOT_INDEXED', file.path, { cause });
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Removes what makers that were killed have left. */
async function sweep(folder: string): Promise<void> {
  for (const entry of await readdir(folder)) {
    const pid = entry.startsWith(`.${INDEX_FILE}-`) ? Number(entry.split('-')[1]) : 0;
    if (pid > 0 && !processAlive(pid)) await rm(join(folder, entry), { force: true });
  }
}

/** Makes the index unless a good one is there; whether it was made. @throws PAGES_NOT_INDEXED, the signal's reason */
export async function ensurePageIndex(file: ContentFile, call: IndexProgress = {}): Promise<boolean> {
  try {
    await loadPageIndex(file);
    return false;
  } catch {
    await makePageIndex(file, call);
    return true;
  }
}
