import { randomBytes } from 'node:crypto';
import { chmod, mkdir, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import { processAlive } from '../../base/process.ts';
import { sha256Schema } from '../images/manifest.ts';
import type { Artefact } from './artefact.ts';
import { PARTS_MAX, PARTS_MAX_AGE_MS } from './constants.ts';
import { fail } from './errors.ts';

const PREFIX = '.part-';
const JOURNAL = 'part.json';
const OWNER = 'owner.pid';

const journalSchema = z.object({
  version: z.literal(1),
  /** By name: how much of it is there and durable, and whether it is whole with the right checksum. */
  files: z.record(z.string(), z.object({ offsetBytes: z.int().nonnegative(), verified: z.boolean() })),
});
type Journal = z.infer<typeof journalSchema>;

/**
 * An artefact that is on its way: `<store>/.part-<digest>/` with its files as far as they are here, and `part.json`, which
 * says how far that is. It survives whatever ends a push, and becomes `<store>/<digest>` by a rename.
 */
export class Part {
  readonly folder: string;
  readonly #store: string;
  readonly #artefact: Artefact;
  #journal: Journal;

  private constructor(store: string, artefact: Artefact, folder: string, journal: Journal) {
    this.#store = store;
    this.#artefact = artefact;
    this.folder = folder;
    this.#journal = journal;
  }

  /** Takes up what is there of the artefact, or begins it. @throws STAGE_BUSY, STAGE_WRITE_FAILED */
  static async open(store: string, artefact: Artefact): Promise<Part> {
    const folder = partFolder(store, artefact.digest);
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      await own(folder);
      return new Part(store, artefact, folder, await readJournal(folder));
    } catch (cause) {
      throw asStageError(cause, folder);
    }
  }

  pathOf(name: string): string {
    return join(this.folder, name);
  }

  isVerified(name: string): boolean {
    return this.#journal.files[name]?.verified ?? false;
  }

  /** How much of a file is durable. */
  async offsetOf(name: string): Promise<number> {
    const size = await stat(this.pathOf(name)).then(
      (found) => found.size,
      () => 0,
    );
    return Math.min(size, this.#journal.files[name]?.offsetBytes ?? 0);
  }

  /** What was said of a file is durable already. */
  async note(name: string, offsetBytes: number, verified = false): Promise<void> {
    this.#journal.files[name] = { offsetBytes, verified };
    const next = join(this.folder, `${JOURNAL}.${randomBytes(4).toString('hex')}`);
    await writeDurably(next, JSON.stringify(this.#journal));
    await rename(next, join(this.folder, JOURNAL));
  }

  /**
   * All files are verified: the folder becomes the artefact in the store, whole or not at all. One that has come there
   * meanwhile is the same.
   */
  async publish(folderMode: number): Promise<void> {
    const manifest = this.pathOf('manifest.json');
    await rm(manifest, { force: true });
    await writeDurably(manifest, `${JSON.stringify(this.#artefact.manifest, null, 2)}\n`);
    await chmod(manifest, 0o444);
    for (const { name, mode } of this.#artefact.files) await chmod(this.pathOf(name), mode);
    await rm(this.pathOf(JOURNAL), { force: true });
    await rm(this.pathOf(OWNER), { force: true });
    await chmod(this.folder, folderMode);
    try {
      await rename(this.folder, join(this.#store, this.#artefact.digest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw asStageError(error, this.folder);
      await this.discard();
    }
  }

  /** Nobody works on it any more; it stays. */
  async release(): Promise<void> {
    await rm(this.pathOf(OWNER), { force: true });
  }

  async discard(): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}

export function partFolder(store: string, digest: string): string {
  return join(store, `${PREFIX}${digest}`);
}

/** Disk space that the part of an artefact takes already. */
export async function partBytes(store: string, digest: string): Promise<number> {
  const folder = partFolder(store, digest);
  let bytes = 0;
  for (const name of await readdir(folder).catch(() => []))
    bytes += await stat(join(folder, name)).then(
      (found) => found.blocks * 512,
      () => 0,
    );
  return bytes;
}

export async function freeBytesAt(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** Removes parts that nobody works on: those untouched for PARTS_MAX_AGE_MS, and the oldest beyond PARTS_MAX. */
export async function sweepParts(store: string, nowMs = Date.now()): Promise<void> {
  const found: { folder: string; touchedMs: number }[] = [];
  for (const entry of await readdir(store).catch(() => [])) {
    if (!entry.startsWith(PREFIX) || !sha256Schema.safeParse(entry.slice(PREFIX.length)).success) continue;
    const folder = join(store, entry);
    if (await ownerOf(folder)) continue;
    const { mtimeMs } = await stat(folder).catch(() => ({ mtimeMs: nowMs }));
    found.push({ folder, touchedMs: mtimeMs });
  }
  found.sort((a, b) => b.touchedMs - a.touchedMs);
  for (const [i, { folder, touchedMs }] of found.entries())
    if (i >= PARTS_MAX || nowMs - touchedMs > PARTS_MAX_AGE_MS)
      await rm(folder, { recursive: true, force: true });
}

/** An error of the file system as the one that the operator gets. */
export function asStageError(cause: unknown, where: string): Error {
  const { code } = cause as { code?: unknown };
  if (code === 'ENOSPC' || code === 'EDQUOT') return fail('STAGE_NO_SPACE', where, { cause });
  if (typeof code === 'string' && /^E[A-Z]+$/.test(code)) return fail('STAGE_WRITE_FAILED', where, { cause });
  return cause as Error;
}

async function ownerOf(folder: string): Promise<number | undefined> {
  const pid = Number(await readFile(join(folder, OWNER), 'utf8').catch(() => ''));
  return pid > 0 && pid !== process.pid && processAlive(pid) ? pid : undefined;
}

async function own(folder: string): Promise<void> {
  const pid = await ownerOf(folder);
  if (pid !== undefined) throw fail('STAGE_BUSY', `process ${pid}`);
  const path = join(folder, OWNER);
  await rm(path, { force: true });
  await using file = await open(path, 'wx', 0o644);
  await file.writeFile(`${process.pid}\n`);
}

async function readJournal(folder: string): Promise<Journal> {
  try {
    return journalSchema.parse(JSON.parse(await readFile(join(folder, JOURNAL), 'utf8')));
  } catch {
    // none, or one that cannot be trusted: everything is sent
    return { version: 1, files: {} };
  }
}

async function writeDurably(path: string, content: string): Promise<void> {
  await using file = await open(path, 'wx', 0o644);
  await file.writeFile(content);
  await file.datasync();
}
