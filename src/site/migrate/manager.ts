import { mkdir } from 'node:fs/promises';
import { errorCode } from '../../base/errors.ts';
import { isBeforeSwitch } from '../../migration/state.ts';
import type { Migrate, MigrationView } from '../api/messages.ts';
import { EVENT_INTERVAL_MS, MIGRATIONS_MAX, TOMBSTONES_MAX } from '../constants.ts';
import { failMigrate, failPrepare } from '../errors.ts';
import { newMigrationId } from '../ids.ts';
import { parseParams } from './params.ts';
import { checkPrepare } from './checks.ts';
import { keepWhatTravelled } from './content.ts';
import type { MigrateContext } from './context.ts';
import { MigrationEntry } from './entry.ts';
import { History } from './history.ts';
import {
  abortSchema,
  outcomeRequestSchema,
  prepareSchema,
  type ActiveFile,
  type Outcome,
  type Prepared,
} from './messages.ts';
import { recoverMigrations } from './recover.ts';
import { askAndSettle, checkPeer, runSource, takeBack } from './source.ts';
import { prepareTarget, targetFacts, watchTarget } from './target.ts';

/** All migrations of a site, both directions: those under way here, those that have ended in `history`. */
export class MigrationManager {
  readonly history: History;
  readonly #context: MigrateContext;
  readonly #entries = new Map<string, MigrationEntry>();
  /** Ids that were refused before they came: an abort may overtake its prepare. */
  readonly #tombstones = new Set<string>();
  readonly #listeners = new Set<(view: MigrationView) => void>();
  readonly #rates = new Map<string, number>();

  constructor(context: MigrateContext) {
    this.#context = context;
    this.history = new History(context.paths);
  }

  /** The active migration of a VM. */
  activeOf(vmId: string): MigrationEntry | undefined {
    return this.#active().find((entry) => entry.info.vmId === vmId);
  }

  #active(): MigrationEntry[] {
    return [...this.#entries.values()].filter((entry) => entry.active);
  }

  #add(info: ActiveFile): MigrationEntry {
    const entry = new MigrationEntry(info, this.#context.paths.migration(info.migrationId));
    this.#entries.set(info.migrationId, entry);
    // what has ended is in its files; those that need attention stay
    void entry.ended.then(() => {
      if (!entry.kept) this.#entries.delete(entry.id);
      this.#context.onActivity?.();
      return keepWhatTravelled(this.#context, entry);
    });
    this.#context.onActivity?.();
    void this.#watch(entry).catch((error: unknown) => this.#context.log.error({ err: error }, 'migration'));
    return entry;
  }

  async #watch(entry: MigrationEntry): Promise<void> {
    const { closing } = this.#context;
    try {
      for await (const view of entry.follow(closing, EVENT_INTERVAL_MS)) {
        const last = view.active ? view : await this.get(entry.id);
        const rateMbit = last.record?.link.rateMbit;
        if (typeof rateMbit === 'number') this.#rates.set(last.peer, rateMbit);
        for (const listener of this.#listeners) listener(last);
      }
    } catch (error) {
      if (!closing.aborted) throw error;
    }
  }

  /** Tells of each migration as it goes, at most ten times a second, the last time when it has ended. */
  onChange(listener: (view: MigrationView) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What the link to that site carried when a migration last measured it, in Mbit/s. */
  lastRateMbit(peer: string): number | undefined {
    return this.#rates.get(peer);
  }

  /** The sites to which VMs of this one move now. */
  activePeers(): string[] {
    return [
      ...new Set(
        this.#active()
          .filter(({ info }) => info.role === 'source')
          .map(({ info }) => info.peer),
      ),
    ];
  }

  get activeCount(): number {
    return this.#active().length;
  }

  // --- asked for at this site --------------------------------------------------------------------------------

  /**
   * Starts a migration and returns at once; `follow` tells how it goes. Whoever gives it an id may ask again: one that
   * is under way, or has ended, is not started twice.
   * @throws MIGRATE_*, SITE_*, VM_*
   */
  async start(
    request: Migrate,
    { initiatedAtMs = Date.now(), migrationId = newMigrationId() } = {},
  ): Promise<MigrationView> {
    const before = this.#entries.get(migrationId)?.view() ?? (await this.history.get(migrationId));
    if (before) return before;
    const { vms, config } = this.#context;
    const vm = vms.store.get(request.vm);
    if (this.activeOf(vm.definition.id)) throw failMigrate('MIGRATE_BUSY', vm.definition.name);
    vms.runningQemu(vm);
    const { generation } = await vms.requireOwned(vm);
    checkPeer(this.#context, request.to);
    if (this.#active().length >= MIGRATIONS_MAX) throw failMigrate('MIGRATE_TOO_MANY', `${MIGRATIONS_MAX}`);
    const release = vms.store.occupy(vm, 'migrate');
    const entry = this.#add({
      version: 1,
      role: 'source',
      migrationId,
      vmId: vm.definition.id,
      vmName: vm.definition.name,
      peer: request.to,
      generation,
      initiatedAtMs,
      moverStarted: false,
    });
    void entry.ended.then(release);
    await entry.save();
    void runSource(this.#context, entry, vm, {
      scheme: request.scheme ?? 'hybrid',
      memoryCodec: request.memoryCodec ?? config.migration.memoryCodec,
      diskCodec: request.diskCodec ?? config.migration.diskCodec,
      ...(request.switchBudgetMs === undefined ? {} : { switchBudgetMs: request.switchBudgetMs }),
    });
    return entry.view();
  }

  /** @throws MIGRATE_UNKNOWN */
  async get(migrationId: string): Promise<MigrationView> {
    const view = this.#entries.get(migrationId)?.view() ?? (await this.history.get(migrationId));
    if (!view) throw failMigrate('MIGRATE_UNKNOWN', migrationId);
    return view;
  }

  /** Those under way first, then the latest that ended. */
  async list(limit: number): Promise<MigrationView[]> {
    const active = [...this.#entries.values()].filter((e) => e.active || e.kept);
    const ids = new Set(active.map((entry) => entry.id));
    const ended = (await this.history.list(limit)).filter((view) => !ids.has(view.migrationId));
    return [...active.map((entry) => entry.view()), ...ended];
  }

  /** @throws MIGRATE_UNKNOWN */
  async *follow(migrationId: string, signal: AbortSignal): AsyncGenerator<MigrationView> {
    const entry = this.#entries.get(migrationId);
    if (!entry) {
      yield await this.get(migrationId);
      return;
    }
    for await (const view of entry.follow(signal, EVENT_INTERVAL_MS)) {
      // the last line has the record, which may have come to its file only
      yield view.active ? view : await this.get(migrationId);
    }
  }

  /** Waits until the cancelled migration has ended. @throws MIGRATE_UNKNOWN, MIGRATE_ENDED, MIGRATE_TOO_LATE */
  async cancel(migrationId: string): Promise<MigrationView> {
    const entry = await this.#underWay(migrationId);
    await entry.cancel('asked for by the user');
    await entry.ended;
    return this.get(migrationId);
  }

  /** @throws MIGRATE_UNKNOWN, MIGRATE_ENDED, MOVER_TOO_LATE, MOVER_TARGET_ALIVE */
  async takeBack(migrationId: string): Promise<MigrationView> {
    const entry = await this.#underWay(migrationId);
    await takeBack(this.#context, entry);
    if (!entry.kept) this.#entries.delete(entry.id);
    return this.get(migrationId);
  }

  /** @throws MIGRATE_UNKNOWN, MIGRATE_ENDED */
  async #underWay(migrationId: string): Promise<MigrationEntry> {
    const entry = this.#entries.get(migrationId);
    if (entry) return entry;
    await this.get(migrationId);
    throw failMigrate('MIGRATE_ENDED', migrationId);
  }

  // --- asked for by another site ------------------------------------------------------------------------------

  /** RPC `migration.prepare`. @throws PREPARE_* */
  async prepare(caller: string, params: unknown, signal?: AbortSignal): Promise<Prepared> {
    const request = parseParams(prepareSchema, params);
    const { migrationId, vm } = request;
    const facts = await targetFacts(this.#context, request, this.#active().length);
    // from here until `prepareTarget` has reserved everything nothing waits: two requests cannot both take the last place
    const { vms } = this.#context;
    facts.migrations = this.#active().length;
    facts.used.memoryMiB = vms.memoryUsedMiB();
    facts.used.vms = vms.store.count;
    facts.vmExists = vms.store.has(vm.id) || this.activeOf(vm.id) !== undefined;
    facts.nameTaken = vms.store.nameTaken(vm.name);
    checkPrepare(request, caller, facts);
    if (!facts.image) throw failPrepare('PREPARE_NO_IMAGE');
    if (this.#entries.has(migrationId))
      throw failPrepare('PREPARE_BAD_REQUEST', `${migrationId} is under way`);
    if (this.#tombstones.has(migrationId)) throw failMigrate('MIGRATE_CANCELLED', migrationId);
    const entry = this.#add({
      version: 1,
      role: 'target',
      migrationId,
      vmId: vm.id,
      vmName: vm.name,
      peer: caller,
      generation: request.generation,
      initiatedAtMs: Date.now(),
      moverStarted: false,
    });
    // the source gave up waiting, or its connection has gone
    const giveUp = (): void => entry.cancelled.abort(failMigrate('MIGRATE_CANCELLED', 'by the source'));
    signal?.addEventListener('abort', giveUp, { once: true });
    const stored = await prepareTarget(this.#context, entry, request, facts.image);
    signal?.removeEventListener('abort', giveUp);
    if (entry.mover) void watchTarget(this.#context, entry, stored, entry.mover);
    const { version, accelerator } = vms.facts;
    return { migrationId, qemuVersion: version, accelerator };
  }

  /** RPC `migration.abort`: returns when nothing of it is left here. @throws MIGRATE_TOO_LATE */
  async abort(caller: string, params: unknown): Promise<{ aborted: boolean }> {
    const { migrationId, reason } = parseParams(abortSchema, params);
    const entry = this.#entries.get(migrationId);
    if (!entry) {
      this.#bury(migrationId);
      return { aborted: false };
    }
    if (entry.info.peer !== caller || entry.info.role !== 'target')
      throw failMigrate('MIGRATE_UNKNOWN', migrationId);
    if (entry.active) await this.#giveUp(entry, reason);
    await entry.ended;
    return { aborted: true };
  }

  /** RPC `migration.outcome`: the source has lost its mover and asks who has the VM. The answer binds. */
  async outcome(caller: string, params: unknown): Promise<Outcome> {
    const { migrationId } = parseParams(outcomeRequestSchema, params);
    const entry = this.#entries.get(migrationId);
    if (entry?.active) {
      if (entry.info.peer !== caller || entry.info.role !== 'target')
        throw failMigrate('MIGRATE_UNKNOWN', migrationId);
      try {
        await this.#giveUp(entry, `${caller} lost its mover`);
        await entry.ended;
      } catch (error) {
        return { migrationId, outcome: errorCode(error) === 'MIGRATE_TOO_LATE' ? 'running' : 'pending' };
      }
    }
    if (entry?.kept) return { migrationId, outcome: 'running' };
    const ended = await this.history.get(migrationId);
    if (ended && ended.peer !== caller) throw failMigrate('MIGRATE_UNKNOWN', migrationId);
    if (ended?.state === 'completed') return { migrationId, outcome: 'completed' };
    this.#bury(migrationId);
    return { migrationId, outcome: 'aborted' };
  }

  /** A mover that does not answer is ended, as long as it has not taken the VM; whose the VM is then says its file. */
  async #giveUp(entry: MigrationEntry, reason: string): Promise<void> {
    try {
      await entry.cancel(reason);
    } catch (error) {
      const state = entry.status?.state;
      if (errorCode(error) === 'MIGRATE_TOO_LATE' || (state && !isBeforeSwitch(state))) throw error;
      await entry.mover?.kill();
    }
  }

  #bury(migrationId: string): void {
    this.#tombstones.add(migrationId);
    if (this.#tombstones.size <= TOMBSTONES_MAX) return;
    const [oldest] = this.#tombstones;
    if (oldest !== undefined) this.#tombstones.delete(oldest);
  }

  // --- the agent's own life -------------------------------------------------------------------------------------

  /** After a restart: takes up movers that go on, settles what ended meanwhile, removes what is stale. */
  async recover(): Promise<void> {
    await mkdir(this.#context.paths.migrationsDir, { recursive: true, mode: 0o700 });
    await this.history.prune();
    await recoverMigrations(this.#context, (info, vm) => {
      const entry = this.#add(info);
      if (vm && info.role === 'source') void entry.ended.then(this.#context.vms.store.occupy(vm, 'migrate'));
      return entry;
    });
  }

  get hasActive(): boolean {
    return this.#active().length > 0;
  }

  /** The agent ends: movers run on, and the next agent takes them up. */
  async detach(): Promise<void> {
    await Promise.all(this.#active().map(async (entry) => entry.mover?.[Symbol.asyncDispose]()));
  }

  /** A site is back: whatever hangs on its word is asked again. */
  async onPeerConnected(site: string): Promise<void> {
    for (const entry of this.#entries.values()) {
      const { role, peer, vmId } = entry.info;
      if (!entry.kept || role !== 'source' || peer !== site || !this.#context.vms.store.has(vmId)) continue;
      await askAndSettle(this.#context, entry, this.#context.vms.store.get(vmId), undefined);
      if (!entry.kept) this.#entries.delete(entry.id);
    }
  }
}
