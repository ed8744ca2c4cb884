import { type FileHandle, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { makePageIndexInBackground } from '../pages/background.ts';
import { INDEX_FILE, PAGE_BYTES, READ_CHUNK_BYTES } from '../pages/constants.ts';
import type { ContentFile } from '../pages/store.ts';
import { META_MAX_BYTES } from './constants.ts';
import { LOG_NOTE, LOG_PARTS, logFile } from './log.ts';

export const PAGES_FILE = 'pages';
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

const noteSchema = z.object({
  version: z.literal(1),
  bytes: z.array(z.number().int().nonnegative().multipleOf(PAGE_BYTES)).length(LOG_PARTS.length),
});

/** The pages of a folder of residue, and their index. */
export function contentOfFolder(folder: string): ContentFile {
  return { path: join(folder, PAGES_FILE), indexPath: join(folder, INDEX_FILE) };
}

/**
 * Puts the parts of a finished migration's log together, one after the other, and indexes them in a thread: at both ends
 * of the migration the same file, so the same index. Undefined where the log is not whole, or has nothing in it.
 * @throws what the file system and the indexing throw
 */
export async function assembleLog(folder: string): Promise<(ContentFile & { bytes: number }) | undefined> {
  const note = await readNote(join(folder, LOG_NOTE));
  const content = contentOfFolder(folder);
  const [first, ...rest] = LOG_PARTS.map((part, i) => ({
    path: logFile(folder, part),
    bytes: note?.[i] ?? 0,
    sparse: part === 'disk',
  }));
  if (!note || !first) return undefined;
  let bytes = first.bytes;
  {
    // the first, the memory's, is mostly by far the longest: the others are appended to it
    await using out = await open(first.path, 'a', 0o600);
    if ((await out.stat()).size !== first.bytes) return undefined;
    for (const { path, bytes: length, sparse } of rest) {
      if (length === 0) continue;
      const appended = await append(out, path, length, sparse);
      if (appended === undefined) return undefined;
      bytes += appended;
      await rm(path);
    }
    if (bytes === 0) return undefined;
    await out.datasync();
  }
  await rename(first.path, content.path);
  await makePageIndexInBackground(content);
  return { ...content, bytes };
}

async function readNote(path: string): Promise<readonly number[] | undefined> {
  try {
    if ((await stat(path)).size > META_MAX_BYTES) return undefined;
    return noteSchema.parse(JSON.parse(await readFile(path, 'utf8'))).bytes;
  } catch {
    return undefined;
  }
}

/** Bytes appended; undefined if the file has not the length that was noted. Of a sparse one only what is not zero. */
async function append(
  out: FileHandle,
  path: string,
  lengthBytes: number,
  sparse: boolean,
): Promise<number | undefined> {
  await using from = await open(path, 'r');
  if ((await from.stat()).size !== lengthBytes) return undefined;
  const buffer = Buffer.allocUnsafeSlow(READ_CHUNK_BYTES);
  let appended = 0;
  for (let at = 0; at < lengthBytes; ) {
    const { bytesRead } = await from.read(buffer, 0, Math.min(buffer.length, lengthBytes - at), at);
    if (bytesRead === 0 || bytesRead % PAGE_BYTES !== 0) return undefined;
    const kept = sparse ? dropZeroPages(buffer, bytesRead) : bytesRead;
    await out.appendFile(buffer.subarray(0, kept));
    appended += kept;
    at += bytesRead;
  }
  return appended;
}

/** Moves the pages that are not all zero to the front; returns how many bytes they are. */
function dropZeroPages(buffer: Buffer, lengthBytes: number): number {
  let kept = 0;
  for (let at = 0; at < lengthBytes; at += PAGE_BYTES) {
    if (buffer.compare(ZERO_PAGE, 0, PAGE_BYTES, at, at + PAGE_BYTES) === 0) continue;
    if (kept !== at) buffer.copyWithin(kept, at, at + PAGE_BYTES);
    kept += PAGE_BYTES;
  }
  return kept;
}
