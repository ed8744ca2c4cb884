import { open, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { makePageIndexInBackground } from '../pages/background.ts';
import { INDEX_FILE, PAGE_BYTES, READ_CHUNK_BYTES } from '../pages/constants.ts';
import type { ContentFile } from '../pages/store.ts';
import { META_MAX_BYTES } from './constants.ts';
import { LOG_NOTE, LOG_STREAMS, logFile } from './log.ts';

export const PAGES_FILE = 'pages';

const noteSchema = z.object({
  version: z.literal(1),
  bytes: z.array(z.number().int().nonnegative().multipleOf(PAGE_BYTES)).length(LOG_STREAMS.length),
});

/** The pages of a folder of residue, and their index. */
export function contentOfFolder(folder: string): ContentFile {
  return { path: join(folder, PAGES_FILE), indexPath: join(folder, INDEX_FILE) };
}

/**
 * Puts the logs of a finished migration together, one after the other, and indexes them in a thread: at both ends of the
 * migration the same file, so the same index. Undefined where the log is not whole, or has nothing in it.
 * @throws what the file system and the indexing throw
 */
export async function assembleLog(folder: string): Promise<(ContentFile & { bytes: number }) | undefined> {
  const note = await readNote(join(folder, LOG_NOTE));
  const bytes = note?.reduce((sum, length) => sum + length, 0) ?? 0;
  if (!note || bytes === 0) return undefined;
  const content = contentOfFolder(folder);
  const [first, ...rest] = LOG_STREAMS.map((stream, i) => ({
    path: logFile(folder, stream),
    bytes: note[i] ?? 0,
  }));
  if (!first) return undefined;
  {
    // the first, the memory's, is mostly by far the longest: the others are appended to it
    await using out = await open(first.path, 'a', 0o600);
    const { size } = await out.stat();
    if (size !== first.bytes) return undefined;
    const buffer = Buffer.allocUnsafeSlow(READ_CHUNK_BYTES);
    for (const log of rest) {
      if (log.bytes === 0) continue;
      if (!(await append(out, log.path, log.bytes, buffer))) return undefined;
      await rm(log.path);
    }
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

/** Whether the file had the length that was noted. */
async function append(
  out: Awaited<ReturnType<typeof open>>,
  path: string,
  lengthBytes: number,
  buffer: Buffer,
): Promise<boolean> {
  await using from = await open(path, 'r');
  let copied = 0;
  for (;;) {
    const { bytesRead } = await from.read(buffer, 0, buffer.length, copied);
    if (bytesRead === 0) return copied === lengthBytes;
    await out.appendFile(buffer.subarray(0, bytesRead));
    copied += bytesRead;
  }
}
