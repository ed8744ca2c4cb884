import { readdir, rm } from 'node:fs/promises';
import { migrationRecordSchema } from '../../migration/record.ts';
import type { MigrationView } from '../api/messages.ts';
import { RECORDS_KEPT } from '../constants.ts';
import { migrationIdSchema } from '../ids.ts';
import { readJson } from '../json-file.ts';
import type { SitePaths } from '../paths.ts';
import { outcomeFileSchema } from './messages.ts';

/** Migrations that have ended, from their files: `<id>.outcome.json`, and at the source the record in `<id>.json`. */
export class History {
  readonly #paths: SitePaths;

  constructor(paths: SitePaths) {
    this.#paths = paths;
  }

  async get(migrationId: string): Promise<MigrationView | undefined> {
    if (!migrationIdSchema.safeParse(migrationId).success) return undefined;
    const paths = this.#paths.migration(migrationId);
    const [outcome, record] = await Promise.all([
      readJson(paths.outcomeFile, outcomeFileSchema).catch(() => undefined),
      readJson(paths.recordFile, migrationRecordSchema).catch(() => undefined),
    ]);
    if (!outcome) return undefined;
    const { role, vmId, vmName, peer, state, initiatedAtMs, error } = outcome;
    return {
      migrationId,
      role,
      vmId,
      vmName,
      peer,
      state,
      initiatedAtMs,
      error,
      active: false,
      link: null,
      progress: null,
      record: record ?? null,
    };
  }

  /** The latest first. */
  async list(limit: number): Promise<MigrationView[]> {
    const views = await Promise.all((await this.#ids()).map((id) => this.get(id)));
    return views
      .filter((view) => view !== undefined)
      .sort((a, b) => b.initiatedAtMs - a.initiatedAtMs)
      .slice(0, limit);
  }

  async #ids(): Promise<string[]> {
    const names = await readdir(this.#paths.migrationsDir).catch(() => []);
    const suffix = '.outcome.json';
    return names.filter((name) => name.endsWith(suffix)).map((name) => name.slice(0, -suffix.length));
  }

  /** Removes the files of all but the latest RECORDS_KEPT. */
  async prune(): Promise<void> {
    if ((await this.#ids()).length <= RECORDS_KEPT) return;
    const kept = new Set((await this.list(RECORDS_KEPT)).map((view) => view.migrationId));
    for (const id of await this.#ids()) {
      if (kept.has(id)) continue;
      const { outcomeFile, recordFile, logFile } = this.#paths.migration(id);
      await Promise.all([outcomeFile, recordFile, logFile].map((file) => rm(file, { force: true })));
    }
  }
}
