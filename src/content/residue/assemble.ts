import { type FileHandle, open, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { makePageIndexInBackground } from '../pages/background.ts';
import { INDEX_FILE, PAGE_BYTES, READ_CHUNK_BYTES } from '../pages/constants.ts';
import type { ContentFile } from '../pages/store.ts';
import { LOG_SECTORS_MAX, META_MAX_BYTES } from './constants.ts';
import { LOG_NOTE, LOG_PARTS, logFile, SECTORS_FILE } from './log.ts';

export const PAGES_FILE = 'pages';

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
  if (!note) return undefined;
  const content = contentOfFolder(folder);
  const sorted = await sortedSectors(join(folder, SECTORS_FILE));
  const [first, urgent, disk] = LOG_PARTS.map((part, i) => ({
    path: logFile(folder, part),
    bytes: note[i] ?? 0,
  }));
  if (!first || !urgent || !disk || !sorted || disk.bytes !== sorted.total * PAGE_BYTES) return undefined;
  let bytes = first.bytes;
  {
    // the first, the memory's, is mostly by far the longest: the others are appended to it
    await using out = await open(first.path, 'a', 0o600);
    if ((await out.stat()).size !== first.bytes) return undefined;
    const whole = { first: 0, count: urgent.bytes / PAGE_BYTES };
    for (const [part, runs] of [
      [urgent, [whole]],
      [disk, sorted.runs],
    ] as const) {
      if (part.bytes === 0) continue;
      const appended = await append(out, part, runs);
      if (appended === undefined) return undefined;
      bytes += appended;
      await rm(part.path);
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

interface PageRun {
  readonly first: number;
  count: number;
}

/** Which pages of the disk's part, in the order of their sectors and each once; those that came later say the same. */
async function sortedSectors(path: string): Promise<{ total: number; runs: PageRun[] } | undefined> {
  const bytes = await readFile(path).catch(() => undefined);
  if (!bytes || bytes.length % 4 !== 0 || bytes.length > 4 * LOG_SECTORS_MAX) return undefined;
  const total = bytes.length / 4;
  const sectors = new Uint32Array(new Uint8Array(bytes).buffer);
  // one number a page, so that typed arrays sort it: the sector, then its place in the file
  const keys = Float64Array.from(sectors, (sector, place) => sector * LOG_SECTORS_MAX + place).sort();
  const runs: PageRun[] = [];
  let last = -1;
  for (const key of keys) {
    const sector = Math.floor(key / LOG_SECTORS_MAX);
    if (sector === last) continue;
    last = sector;
    const place = key % LOG_SECTORS_MAX;
    const run = runs.at(-1);
    if (run && run.first + run.count === place) run.count++;
    else runs.push({ first: place, count: 1 });
  }
  return { total, runs };
}

/** Bytes appended; undefined if the file has not the length that was noted. */
async function append(
  out: FileHandle,
  part: { readonly path: string; readonly bytes: number },
  runs: readonly PageRun[],
): Promise<number | undefined> {
  await using from = await open(part.path, 'r');
  if ((await from.stat()).size !== part.bytes) return undefined;
  const buffer = Buffer.allocUnsafeSlow(READ_CHUNK_BYTES);
  let filled = 0;
  let appended = 0;
  for (const run of runs) {
    let at = run.first * PAGE_BYTES;
    const end = at + run.count * PAGE_BYTES;
    while (at < end) {
      const { bytesRead } = await from.read(buffer, filled, Math.min(buffer.length - filled, end - at), at);
      if (bytesRead === 0) return undefined;
      at += bytesRead;
      filled += bytesRead;
      appended += bytesRead;
      if (filled === buffer.length) {
        await out.appendFile(buffer);
        filled = 0;
      }
    }
  }
  await out.appendFile(buffer.subarray(0, filled));
  return appended;
}
