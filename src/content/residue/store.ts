/**
 * What a site keeps of VMs that left, so that their return is cheap.
 *
 *   <folder>/<VM id>/{pages, pages.idx, meta.json}   the pages that travelled when the VM left last, and their index
 *   <folder>/<VM id>.<site>.idx                      of a VM that is here: the index of what that site has of it
 *   <folder>/.log-<migration>/                       the log of a migration under way, or being turned into residue
 *   <folder>/.old-<random>/                          on its way out
 *
 * A residue appears whole (by rename) and at most once a VM: the newest. Names that begin with a dot are swept at start.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import * as z from 'zod';
import type { ContentFile } from '../pages/store.ts';
import { assembleLog, contentOfFolder } from './assemble.ts';
import { FREE_DISK_SHARE, META_MAX_BYTES, RESIDUES_MAX } from './constants.ts';
import { fail } from './errors.ts';

/** Of VMs, sites and migrations: none holds a dot. */
const ID = /^[a-z0-9][a-z0-9-]{0,63}$/;
const HELD = /^([^.]+)\.[^.]+\.idx$/;
const META_FILE = 'meta.json';
const LOG_PREFIX = '.log-';

const metaSchema = z.object({
  version: z.literal(1),
  vmId: z.string().regex(ID),
  vmName: z.string().max(64),
  /** The site that the VM left to. */
  leftTo: z.string().max(64),
  /** Unix times. */
  keptAtMs: z.number(),
  usedAtMs: z.number(),
  /** Of the pages and their index. */
  bytes: z.number().int().nonnegative(),
});
export type Residue = Readonly<z.infer<typeof metaSchema>>;

export interface ResidueStoreOptions {
  readonly folder: string;
  /** All residue together; 0 keeps none. */
  readonly maxBytes: number;
  /** Free space of the folder's file system; for tests. */
  readonly freeBytes?: () => Promise<number>;
  readonly now?: () => number;
}

/** Used by one process at a time. What one call changes, the next one sees: they go one after the other. */
export class ResidueStore {
  readonly #folder: string;
  readonly #maxBytes: number;
  readonly #freeBytes: () => Promise<number>;
  readonly #now: () => number;
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: ResidueStoreOptions) {
    this.#folder = options.folder;
    this.#maxBytes = options.maxBytes;
    this.#freeBytes = options.freeBytes ?? (() => freeBytesOf(options.folder));
    this.#now = options.now ?? Date.now;
  }

  /** Where a migration's mover may log what travels, and how much; undefined where nothing is kept. */
  async logFor(migrationId: string): Promise<{ folder: string; maxBytes: number } | undefined> {
    if (this.#maxBytes === 0) return undefined;
    await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    const maxBytes = await this.#limitBytes(await this.list());
    return { folder: this.#logFolder(migrationId), maxBytes };
  }

  /** Makes the migration's log the residue of its VM, whatever there was of it. False where the log is not whole. */
  keep(migrationId: string, vm: { id: string; name: string; leftTo: string }): Promise<boolean> {
    return this.#withLog(migrationId, async (folder) => {
      const content = await assembleLog(folder);
      if (!content) return false;
      const bytes = content.bytes + (await stat(content.indexPath)).size;
      const now = this.#now();
      const { id: vmId, name: vmName, leftTo } = vm;
      await this.#inTurn(async () => {
        if (!(await this.#makeRoom(bytes, vmId))) throw fail('RESIDUE_LOG_FULL', `${bytes} bytes`);
        await writeMeta(folder, { version: 1, vmId, vmName, leftTo, keptAtMs: now, usedAtMs: now, bytes });
        await this.#discard(this.#path(vmId));
        await rename(folder, this.#path(vmId));
      });
      return true;
    });
  }

  /** Keeps only the index of the migration's log: what the other site has of the VM. False as with `keep`. */
  keepIndex(migrationId: string, vmId: string, site: string): Promise<boolean> {
    return this.#withLog(migrationId, async (folder) => {
      const content = await assembleLog(folder);
      if (!content) return false;
      await rename(content.indexPath, this.#heldPath(vmId, site));
      return true;
    });
  }

  /** Index of what the other site was left with of a VM that is here; undefined if it is not known. */
  async heldBy(site: string, vmId: string): Promise<string | undefined> {
    const path = this.#heldPath(vmId, site);
    return (await exists(path)) ? path : undefined;
  }

  /** The VM is not here any more. */
  async dropIndexes(vmId: string): Promise<void> {
    for (const name of await readdir(this.#folder).catch(() => []))
      if (HELD.exec(name)?.[1] === vmId) await rm(join(this.#folder, name), { force: true });
  }

  /** The migration's log is of no use. */
  async dropLog(migrationId: string): Promise<void> {
    await rm(this.#logFolder(migrationId), { recursive: true, force: true });
  }

  /** The residue of a VM that is about to be used, if there is one. */
  async find(vmId: string): Promise<ContentFile | undefined> {
    const found = ID.test(vmId) ? await readMeta(this.#path(vmId)) : undefined;
    if (!found || found.vmId !== vmId) return undefined;
    // a migration waits for us; the note may come to the disk behind its back
    void this.#inTurn(async () => {
      const now = await readMeta(this.#path(vmId));
      if (now) await writeMeta(this.#path(vmId), { ...now, usedAtMs: this.#now() }).catch(() => {});
    });
    return contentOfFolder(this.#path(vmId));
  }

  /** The one used last first. */
  async list(): Promise<Residue[]> {
    const names = (await readdir(this.#folder).catch(() => [])).filter((name) => ID.test(name));
    const found = await Promise.all(names.slice(0, RESIDUES_MAX).map((name) => readMeta(this.#path(name))));
    return found.filter((meta) => meta !== undefined).sort((a, b) => b.usedAtMs - a.usedAtMs);
  }

  /** @throws RESIDUE_UNKNOWN */
  remove(vmId: string): Promise<void> {
    return this.#inTurn(async () => {
      if (!ID.test(vmId) || !(await exists(this.#path(vmId)))) throw fail('RESIDUE_UNKNOWN', vmId);
      await this.#discard(this.#path(vmId));
    });
  }

  /** Gives disk space back, least recently used first, until so much is free or no residue is left. */
  giveWay(neededBytes: number): Promise<void> {
    return this.#inTurn(async () => {
      for (const { vmId } of (await this.list()).toReversed()) {
        if ((await this.#freeBytes()) >= neededBytes) return;
        await this.#discard(this.#path(vmId));
      }
    });
  }

  /**
   * Removes what a killed process left, and what a smaller quota does not hold. Logs of these migrations stay, and indexes
   * of VMs that are here.
   */
  sweep(isActive: (migrationId: string) => boolean, isHere: (vmId: string) => boolean): Promise<void> {
    return this.#inTurn(async () => {
      const names = await readdir(this.#folder).catch(() => undefined);
      if (!names) return;
      for (const name of names) {
        const path = join(this.#folder, name);
        const migration = name.startsWith(LOG_PREFIX) ? name.slice(LOG_PREFIX.length) : undefined;
        if (migration !== undefined && isActive(migration)) continue;
        const held = HELD.exec(name)?.[1];
        if (held !== undefined && isHere(held) && this.#maxBytes > 0) continue;
        const sound = ID.test(name) && (await readMeta(path))?.vmId === name;
        if (!sound) await rm(path, { recursive: true, force: true });
      }
      await this.#makeRoom(0, undefined);
    });
  }

  /** Removes the least recently used until `bytes` more fit; those of `except` are about to be replaced. */
  async #makeRoom(bytes: number, except: string | undefined): Promise<boolean> {
    const all = await this.list();
    const limit = await this.#limitBytes(all);
    if (bytes > limit) return false;
    let used = bytes;
    // the latest first: what does not fit any more goes, with all that was used before it
    let kept = bytes > 0 ? 1 : 0;
    for (const residue of all) {
      if (residue.vmId === except) continue;
      used += residue.bytes;
      kept += 1;
      if (used > limit || kept > RESIDUES_MAX) await this.#discard(this.#path(residue.vmId));
    }
    return true;
  }

  async #limitBytes(all: readonly Residue[]): Promise<number> {
    const used = all.reduce((sum, { bytes }) => sum + bytes, 0);
    const share = Math.floor(((await this.#freeBytes()) + used) / FREE_DISK_SHARE);
    return Math.min(this.#maxBytes, share);
  }

  /** By way of a name that is swept, so that a residue is never there in part. */
  async #discard(path: string): Promise<void> {
    const old = join(this.#folder, `.old-${randomBytes(6).toString('hex')}`);
    try {
      await rename(path, old);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
      throw error;
    }
    await rm(old, { recursive: true, force: true });
  }

  async #withLog(migrationId: string, work: (folder: string) => Promise<boolean>): Promise<boolean> {
    const folder = this.#logFolder(migrationId);
    try {
      return await work(folder);
    } catch (cause) {
      throw fail('RESIDUE_NOT_KEPT', (cause as Error).message, { cause });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#last;
    const turn = before.then(work);
    this.#last = turn.catch(() => {});
    return turn;
  }

  #heldPath(vmId: string, site: string): string {
    return join(this.#folder, `${vmId}.${site}.idx`);
  }

  #path(vmId: string): string {
    return join(this.#folder, vmId);
  }

  #logFolder(migrationId: string): string {
    return join(this.#folder, `${LOG_PREFIX}${migrationId}`);
  }
}

/** Undefined where it is missing or cannot be used. */
async function readMeta(folder: string): Promise<Residue | undefined> {
  const path = join(folder, META_FILE);
  try {
    if ((await stat(path)).size > META_MAX_BYTES) return undefined;
    return metaSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    return undefined;
  }
}

async function writeMeta(folder: string, meta: Residue): Promise<void> {
  const path = join(folder, META_FILE);
  {
    await using file = await open(`${path}.next`, 'w', 0o600);
    await file.writeFile(`${JSON.stringify(meta, null, 2)}\n`);
    await file.datasync();
  }
  await rename(`${path}.next`, path);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function freeBytesOf(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}
