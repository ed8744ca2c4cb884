import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { asCloudapError, type CloudapError, errorCode } from '../../base/errors.ts';
import type { MoveRecord, VmRecord } from '../../control/messages.ts';
import type { ControlPlane } from '../../control/plane.ts';
import { request } from '../../control/requests.ts';
import { hostSubject, siteSubject } from '../../control/subjects.ts';
import { migrationViewSchema } from '../../host/messages.ts';
import type { MigrationView } from '../../site/api/messages.ts';
import * as z from 'zod';
import { MOVES_ACTIVE_MAX, MOVES_KEPT } from '../constants.ts';
import { failCenter } from '../errors.ts';
import { awaitMigration } from './outcome.ts';
import { placeMove } from './place.ts';
import { newMoveId, newRecord, type MoveRequest } from './record.ts';
import { checkTransition, isTerminal } from './state.ts';

/** Lets a move begin when its link and hosts have room for it. */
export interface MoveTurns {
  enter(
    move: { id: string; user: string | null; from: MoveRecord['from']; to: MoveRecord['to'] },
    signal: AbortSignal,
  ): Promise<Disposable>;
}

export interface MovesOptions {
  plane: ControlPlane;
  log: Logger;
  turns: MoveTurns;
  /** Where the VM is, by the word of its host. */
  locate: (vm: string) => VmRecord | undefined;
  /** Is there such a site? */
  siteKnown: (site: string) => boolean;
}

/** A move with what is known of its migration while it goes. */
export interface MoveView {
  record: MoveRecord;
  migration: MigrationView | undefined;
}

interface Active {
  record: MoveRecord;
  migration: MigrationView | undefined;
  /** When its host was told to migrate. */
  instructedAtMs: number | undefined;
  readonly abort: AbortController;
  readonly ended: Promise<void>;
}

/**
 * The moves of all VMs: each is a record that says how far it is, written before each step, so that a center that
 * was killed goes on where it stopped. Steps are idempotent by the move's id.
 */
export class Moves {
  readonly #options: MovesOptions;
  readonly #active = new Map<string, Active>();
  readonly #activeByVm = new Map<string, Active>();
  readonly #ended = new Map<string, MoveRecord>();
  readonly #listeners = new Set<(view: MoveView) => void>();
  readonly #closing = new AbortController();

  constructor(options: MovesOptions) {
    this.#options = options;
  }

  /** Reads the records and takes up what was under way. */
  async recover(): Promise<void> {
    const all = [...(await this.#options.plane.buckets.moves.all()).values()];
    all.sort((a, b) => a.requestedAtMs - b.requestedAtMs);
    for (const record of all) {
      if (isTerminal(record.state)) this.#keep(record);
      else this.#launch(record);
    }
  }

  get(move: string): MoveView {
    const active = this.#active.get(move);
    const record = active?.record ?? this.#ended.get(move);
    if (!record) throw failCenter('MOVE_UNKNOWN', move);
    return { record, migration: active?.migration };
  }

  activeOf(vm: string): MoveView | undefined {
    return this.#activeByVm.get(vm);
  }

  /** Those under way first, then the latest. */
  list(): MoveView[] {
    const ended = [...this.#ended.values()].toReversed().map((record) => ({ record, migration: undefined }));
    return [...this.#active.values(), ...ended].map(({ record, migration }) => ({ record, migration }));
  }

  onChange(listener: (view: MoveView) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Resolves when the move has ended. @throws MOVE_UNKNOWN */
  async ended(move: string): Promise<MoveRecord> {
    await this.#active.get(move)?.ended;
    return this.get(move).record;
  }

  /**
   * Writes the move down and begins with it.
   * @throws MOVE_BUSY, MOVE_VM_UNKNOWN, MOVE_SAME_SITE, MOVE_SITE_UNKNOWN, MOVE_TOO_MANY, CONTROL_UNREACHABLE
   */
  async request(wanted: MoveRequest): Promise<MoveRecord> {
    const id = wanted.move ?? newMoveId();
    const before = this.#active.get(id)?.record ?? this.#ended.get(id);
    if (before) return before;
    const { locate, siteKnown, plane } = this.#options;
    const vm = locate(wanted.vm);
    if (!vm) throw failCenter('MOVE_VM_UNKNOWN', wanted.vm);
    if (!siteKnown(wanted.toSite)) throw failCenter('MOVE_SITE_UNKNOWN', wanted.toSite);
    const { toSite, toHost } = wanted;
    if (vm.site === toSite && (toHost === undefined || toHost === vm.host))
      throw failCenter('MOVE_SAME_SITE', `${vm.name} at ${vm.host}`);
    const busy = this.activeOf(wanted.vm);
    if (busy) throw failCenter('MOVE_BUSY', busy.record.move, { fields: { move: busy.record.move } });
    if (this.#active.size >= MOVES_ACTIVE_MAX) throw failCenter('MOVE_TOO_MANY', `${this.#active.size}`);
    const record = newRecord(id, vm, wanted);
    const active = this.#launch(record, plane.buckets.moves.put(id, record));
    await active.written;
    return record;
  }

  /** Writes down that a VM does not go where its user is, and why: the answer to a presence that has no move. */
  async stayed(wanted: Omit<MoveRequest, 'move' | 'toHost'>): Promise<void> {
    const vm = this.#options.locate(wanted.vm);
    if (!vm) return;
    const queued = newRecord(newMoveId(), vm, wanted);
    const record: MoveRecord = { ...queued, state: 'stayed', endedAtMs: Date.now() };
    await this.#options.plane.buckets.moves.put(record.move, record);
    this.#close(record);
  }

  /** Ends a move that has not switched yet. @throws MOVE_UNKNOWN, MIGRATE_TOO_LATE */
  async abort(move: string, why: string): Promise<MoveRecord> {
    const active = this.#active.get(move);
    if (!active) return this.get(move).record;
    if (active.record.state === 'migrating') await this.#cancelMigration(active.record);
    else active.abort.abort(failCenter('MOVE_ABORTED', why));
    await active.ended;
    return this.get(move).record;
  }

  async #cancelMigration({ move, from }: MoveRecord): Promise<void> {
    const { connection } = this.#options.plane;
    await request(connection, hostSubject(from.host, 'migration-cancel'), { move }, z.unknown(), {
      timeoutMs: 30_000,
    });
  }

  #launch(
    record: MoveRecord,
    written: Promise<unknown> = Promise.resolve(),
  ): Active & { written: Promise<unknown> } {
    const abort = new AbortController();
    const { promise, resolve } = Promise.withResolvers<void>();
    const active = {
      record,
      migration: undefined,
      instructedAtMs: undefined,
      abort,
      ended: promise,
      written,
    };
    this.#active.set(record.move, active);
    this.#activeByVm.set(record.vm, active);
    const signal = AbortSignal.any([abort.signal, this.#closing.signal]);
    void written
      .then(() => this.#run(active, signal))
      .catch((error: unknown) => this.#fail(active, error))
      .finally(resolve);
    return active;
  }

  async #run(active: Active, signal: AbortSignal): Promise<void> {
    this.#tell(active);
    const { move: id, user, from, to } = active.record;
    using _turn = await this.#options.turns.enter({ id, user, from, to }, signal);
    if (active.record.state === 'queued')
      await this.#step(active, { state: 'placing', startedAtMs: Date.now() });
    if (active.record.state === 'placing') {
      const vm = this.#options.locate(active.record.vm);
      if (!vm) throw failCenter('MOVE_VM_UNKNOWN', active.record.vm);
      const { host, reason } = await placeMove(this.#options.plane, active.record, vm, signal);
      signal.throwIfAborted();
      await this.#step(active, {
        state: 'migrating',
        to: { site: to.site, host },
        hostReason: reason,
      });
      active.instructedAtMs = Date.now();
    }
    const view = await this.#migrate(active, signal);
    await this.#settle(active, view);
  }

  async #migrate(active: Active, signal: AbortSignal): Promise<MigrationView> {
    const { plane, log } = this.#options;
    const { move, vm, from, to, requestedAtMs } = active.record;
    let hasBegun = false;
    const end = awaitMigration(plane, active.record, {
      signal,
      log,
      hasBegun: () => hasBegun,
      onProgress: (view) => {
        active.migration = view;
        this.#tell(active);
      },
    });
    end.catch(() => {});
    try {
      const params = { move, vm, to: to.host ?? '', initiatedAtMs: requestedAtMs };
      const view = await request(
        plane.connection,
        hostSubject(from.host, 'migrate'),
        params,
        migrationViewSchema,
        {
          id: move,
        },
      );
      active.migration = view;
      if (!view.active) return view;
    } catch (error) {
      // it may have heard us all the same: then it tells, or knows when asked
      if (!['CONTROL_NO_ANSWER', 'CONTROL_UNREACHABLE'].includes(errorCode(error))) throw error;
    }
    hasBegun = true;
    return end;
  }

  async #settle(active: Active, view: MigrationView): Promise<void> {
    if (view.state === 'completed') {
      const { record } = view;
      await this.#step(active, {
        state: 'completed',
        endedAtMs: Date.now(),
        figures: record && {
          downtimeMs: record.downtimeMs ?? 0,
          switchTimeMs: record.switchTimeMs ?? 0,
          overheadMs:
            active.instructedAtMs === undefined
              ? null
              : Math.max(0, active.instructedAtMs - active.record.requestedAtMs),
          totalTimeMs: record.totalTimeMs ?? 0,
          totalBytes: record.bytes.total,
        },
      });
    } else {
      await this.#step(active, {
        state: view.state === 'cancelled' ? 'cancelled' : 'failed',
        endedAtMs: Date.now(),
        error: view.error && { ...view.error },
      });
      await this.#release(active.record);
    }
    this.#finish(active);
  }

  async #fail(active: Active, thrown: unknown): Promise<void> {
    // a center that ends leaves the record as it is for the next one
    if (this.#closing.signal.aborted) return;
    const error: CloudapError = asCloudapError(thrown);
    const { log } = this.#options;
    log.warn({ move: active.record.move, code: error.code, err: error.message }, 'move failed');
    const state = error.code === 'MOVE_ABORTED' ? 'cancelled' : 'failed';
    try {
      if (!isTerminal(active.record.state))
        await this.#step(active, { state, endedAtMs: Date.now(), error: { ...error.toJSON(), fields: {} } });
      await this.#release(active.record);
    } catch (again) {
      log.error({ move: active.record.move, err: again }, 'how a move ended could not be written');
    }
    this.#finish(active);
  }

  async #release({ move, to }: MoveRecord): Promise<void> {
    if (to.host === null) return;
    const { connection } = this.#options.plane;
    // if nobody hears, the reservation ends by itself
    await request(
      connection,
      siteSubject(to.site, 'release'),
      { id: move, host: to.host },
      z.unknown(),
    ).catch(() => {});
  }

  async #step(active: Active, change: Partial<MoveRecord>): Promise<void> {
    const next = { ...active.record, ...change };
    checkTransition(active.record.state, next.state);
    await this.#options.plane.buckets.moves.put(next.move, next);
    active.record = next;
    this.#tell(active);
  }

  #finish(active: Active): void {
    const { record } = active;
    this.#active.delete(record.move);
    if (this.#activeByVm.get(record.vm) === active) this.#activeByVm.delete(record.vm);
    this.#close(record, active.migration);
  }

  #close(record: MoveRecord, migration?: MigrationView): void {
    this.#keep(record);
    this.#tell({ record, migration });
    const { plane, log } = this.#options;
    plane
      .publishEvent({
        version: 1,
        id: randomUUID(),
        kind: 'move',
        subject: record.move,
        what: record.state,
        user: record.user,
        atMs: Date.now(),
        data: { vm: record.vm, from: record.from, to: record.to, reason: record.reason },
      })
      .catch((error: unknown) => log.warn({ err: asCloudapError(error).message }, 'event'));
  }

  #keep(record: MoveRecord): void {
    this.#ended.set(record.move, record);
    if (this.#ended.size <= MOVES_KEPT) return;
    const [oldest] = this.#ended.keys();
    if (oldest === undefined) return;
    this.#ended.delete(oldest);
    void this.#options.plane.buckets.moves.remove(oldest).catch(() => {});
  }

  #tell({ record, migration }: MoveView): void {
    for (const listener of this.#listeners) listener({ record, migration });
  }

  /** Stops following; what is under way goes on at its hosts, and the next center takes it up. */
  async close(): Promise<void> {
    this.#closing.abort(new Error('the center ends'));
    await Promise.all([...this.#active.values()].map(({ ended }) => ended));
  }
}
