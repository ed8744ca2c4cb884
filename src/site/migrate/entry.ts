import { rm } from 'node:fs/promises';
import { asCloudapError, CloudapError } from '../../base/errors.ts';
import type { MoverStatus } from '../../migration/mover/config.ts';
import type { MoverHandle } from '../../migration/mover/handle.ts';
import { isBeforeSwitch } from '../../migration/state.ts';
import type { ApiError, MigrationView } from '../api/messages.ts';
import { Changes } from '../changes.ts';
import { failMigrate } from '../errors.ts';
import { writeJson } from '../json-file.ts';
import type { MigrationPaths } from '../paths.ts';
import type { ActiveFile, OutcomeFile } from './messages.ts';

export type EndState = OutcomeFile['state'];

/** One migration that is under way at this site, on either side: what is known of it, and who wants to know. */
export class MigrationEntry {
  readonly info: ActiveFile;
  readonly paths: MigrationPaths;
  /** Aborted by a cancel; what comes before the mover obeys it, the mover is told by itself. */
  readonly cancelled = new AbortController();
  /** Source: why the target would not have it. */
  refusal: unknown;
  /** Resolves when everything about this migration is settled at this site. */
  readonly ended: Promise<void>;
  readonly #changes = new Changes();
  readonly #resolveEnded: () => void;
  #mover: MoverHandle | undefined;
  #status: MoverStatus | undefined;
  #outcome: { state: EndState; error: ApiError | null } | undefined;
  #kept = false;

  constructor(info: ActiveFile, paths: MigrationPaths) {
    this.info = info;
    this.paths = paths;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#resolveEnded = resolve;
  }

  get id(): string {
    return this.info.migrationId;
  }

  get mover(): MoverHandle | undefined {
    return this.#mover;
  }

  get status(): MoverStatus | undefined {
    return this.#status;
  }

  get active(): boolean {
    return this.#outcome === undefined;
  }

  /** Interrupted after the switch, and not settled since. */
  get kept(): boolean {
    return this.#kept;
  }

  async save(): Promise<void> {
    await writeJson(this.paths.activeFile, this.info);
  }

  /** From now on the mover's word is the migration's state. */
  async attach(mover: MoverHandle): Promise<void> {
    this.#mover = mover;
    this.info.moverStarted = true;
    mover.onStatus((status) => this.#update(status));
    if (mover.status) this.#update(mover.status);
    await this.save();
  }

  #update(status: MoverStatus): void {
    this.#status = status;
    this.#changes.changed();
  }

  /**
   * Asks for the end of a migration that has not switched yet; `ended` tells when it is done.
   * @throws MIGRATE_ENDED, MIGRATE_TOO_LATE
   */
  async cancel(reason: string): Promise<void> {
    if (!this.active) throw failMigrate('MIGRATE_ENDED', this.id);
    const state = this.#status?.state;
    if (state !== undefined && !isBeforeSwitch(state) && state !== 'switching') {
      throw failMigrate('MIGRATE_TOO_LATE', this.id);
    }
    if (this.#mover) {
      try {
        await this.#mover.cancel(reason);
      } catch (error) {
        if (asCloudapError(error).code === 'MOVER_TOO_LATE')
          throw failMigrate('MIGRATE_TOO_LATE', this.id, { cause: error });
        throw error;
      }
    }
    this.cancelled.abort(failMigrate('MIGRATE_CANCELLED', reason));
  }

  /** Writes how it ended, forgets the sockets, and wakes everybody who waits. */
  async end(state: EndState, error: ApiError | null): Promise<void> {
    if (this.#outcome && !this.#kept) return;
    const { version, role, migrationId, vmId, vmName, peer, initiatedAtMs } = this.info;
    const outcome: OutcomeFile = {
      version,
      role,
      migrationId,
      vmId,
      vmName,
      peer,
      initiatedAtMs,
      endedAtMs: Date.now(),
      state,
      error,
    };
    await writeJson(this.paths.outcomeFile, outcome);
    await this.removeSockets();
    await rm(this.paths.activeFile, { force: true });
    this.#kept = false;
    this.#finish(state, error);
  }

  /** The attempt is over, but its files and sockets stay: somebody has to look, or the other site has to be asked. */
  keep(error: ApiError): void {
    if (this.#outcome && !this.#kept) return;
    this.#kept = true;
    this.#finish('failed', error);
  }

  #finish(state: EndState, error: ApiError | null): void {
    this.#outcome = { state, error };
    this.#changes.changed();
    this.#resolveEnded();
  }

  async removeSockets(): Promise<void> {
    await rm(this.paths.socketDir, { recursive: true, force: true });
    await rm(this.paths.linkSocket, { force: true });
  }

  view(): MigrationView {
    const { migrationId, role, vmId, vmName, peer, initiatedAtMs } = this.info;
    const error =
      this.#outcome?.error ?? (this.#status?.error ? { ...this.#status.error, fields: {} } : null);
    return {
      migrationId,
      role,
      vmId,
      vmName,
      peer,
      initiatedAtMs,
      state: this.#outcome?.state ?? this.#status?.state ?? 'preparing',
      active: this.active,
      link: this.#status?.link ?? null,
      progress: this.#status?.progress ?? null,
      error,
      record: this.#status?.record ?? null,
    };
  }

  /** The view now, then after changes, at most one in `intervalMs`; ends with the migration's end. */
  follow(signal: AbortSignal, intervalMs: number): AsyncGenerator<MigrationView> {
    return this.#changes.follow(() => this.view(), this.ended, { signal, intervalMs });
  }
}

/** What a mover reported, as an error again. */
export function reportedError(status: MoverStatus | undefined): CloudapError | undefined {
  const error = status?.error;
  return error ? new CloudapError(error.code, error.message, error.remedy) : undefined;
}

/** Any thrown value in the shape that views and files have. */
export function asApiError(thrown: unknown): ApiError {
  const { code, message, remedy, fields } = asCloudapError(thrown);
  return { code, message, remedy, fields: { ...fields } };
}
