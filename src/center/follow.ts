import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import type { Fleet } from '../control/fleet.ts';
import type { Assignment, VmRecord } from '../control/messages.ts';
import { decide, type Decision } from '../schedule/decide.ts';
import { Backoff } from './backoff.ts';
import { FOLLOW_SLICE, FOLLOW_SWEEP_MS } from './constants.ts';
import { decideMove } from './decide-move.ts';
import type { Moves } from './moves/moves.ts';

/** States of a migration in which the VM runs at its target. */
const AFTER_SWITCH: ReadonlySet<string> = new Set(['postcopy', 'finalizing', 'completed']);

export interface FollowOptions {
  fleet: Fleet;
  moves: Moves;
  log: Logger;
}

/**
 * Brings each VM to where it should be: looks at what is so, decides, and asks for a move where the two differ. It looks
 * again after every change, every few seconds where the two differ, and now and then everywhere, so whatever was missed, failed or came at the wrong time is made up for.
 */
export class Follow {
  readonly #options: FollowOptions;
  readonly #backoff = new Backoff();
  /** The last decision on each VM, for people. */
  readonly #decisions = new Map<string, Decision>();
  /** VMs that are not where they should be, or were kept from going there. */
  readonly #unsettled = new Set<string>();
  /** By VM, the latest presence of its user that was answered by a move, or by saying why there is none. */
  readonly #answeredMs = new Map<string, number>();
  readonly #stop = new AbortController();
  readonly #unlisten: (() => void)[];
  readonly #running: Promise<void>;

  private constructor(options: FollowOptions) {
    this.#options = options;
    const { fleet, moves } = options;
    this.#unlisten = [
      moves.onChange(({ record }) => {
        if (record.endedAtMs === null) return;
        if (record.state !== 'stayed') this.#ended(record.vm, record.state === 'completed');
        this.#look(record.vm);
      }),
      fleet.onChange(({ kind, id }) => {
        if (kind === 'vm' || kind === 'assignment') this.#look(id);
        if (kind === 'user') for (const vm of fleet.assignedTo(id)) this.#look(vm);
      }),
    ];
    // what an earlier center has answered
    for (const { vm, user } of fleet.assignments())
      this.#answeredMs.set(vm, fleet.whereabouts(user)?.sinceMs ?? 0);
    this.#running = this.#sweep();
  }

  static start(options: FollowOptions): Follow {
    return new Follow(options);
  }

  /** Why the VM is where it is, or goes where it goes. */
  decision(vm: string): Decision | undefined {
    return this.#decisions.get(vm);
  }

  /** A user is somewhere else: their VMs follow at once, whatever has failed before. */
  moved(user: string): void {
    for (const vm of this.#options.fleet.assignedTo(user)) {
      this.#backoff.forget(vm);
      this.#look(vm);
    }
  }

  async #sweep(): Promise<void> {
    const { signal } = this.#stop;
    let rest: string[] = [];
    while (!signal.aborted) {
      for (const vm of this.#unsettled) this.#look(vm);
      await sleep(FOLLOW_SWEEP_MS, signal).catch(() => {});
      // all in slices, so that nothing else waits for a hundred thousand
      if (rest.length === 0) rest = this.#options.fleet.assignments().map(({ vm }) => vm);
      for (const vm of rest.splice(0, FOLLOW_SLICE)) this.#look(vm);
    }
  }

  #look(vm: string): void {
    if (this.#stop.signal.aborted) return;
    const { fleet, log } = this.#options;
    const assignment = fleet.assignment(vm);
    const record = fleet.vm(vm);
    if (!assignment || !record) {
      this.#unsettled.delete(vm);
      this.#answeredMs.delete(vm);
      return;
    }
    const userSite = fleet.whereabouts(assignment.user)?.site ?? null;
    const decision = decide(record, assignment, userSite, fleet, Date.now());
    this.#decisions.set(vm, decision);
    const wanted = (assignment.follow ? userSite : null) ?? assignment.homeSite;
    if (record.site === wanted && !this.#options.moves.activeOf(vm)) this.#unsettled.delete(vm);
    else this.#unsettled.add(vm);
    if (decision.site === record.site) this.#stays(assignment, record, wanted, decision);
    void this.#act(assignment, decision).catch((error: unknown) => {
      this.#ended(vm, false);
      log.info({ vm, err: asCloudapError(error).message }, 'not moved');
    });
  }

  /** It is where it is although its user is elsewhere: said once for each presence. */
  #stays({ user, follow }: Assignment, { vm, site }: VmRecord, wanted: string, { reason }: Decision): void {
    const { moves, log, fleet } = this.#options;
    const presence = fleet.whereabouts(user);
    if (!presence || moves.activeOf(vm) || this.#answeredMs.get(vm) === presence.sinceMs) return;
    this.#answeredMs.set(vm, presence.sinceMs);
    if (site === wanted) return;
    const cause = follow && presence.site !== null ? 'presence' : 'leave';
    moves
      .stayed({ vm, toSite: wanted, user, cause, reason, requestedAtMs: presence.sinceMs })
      .catch((error: unknown) => log.warn({ vm, err: asCloudapError(error).message }, 'stayed'));
  }

  async #act(assignment: Assignment, decision: Decision): Promise<void> {
    const { fleet, moves } = this.#options;
    const { vm, user } = assignment;
    const record = fleet.vm(vm);
    if (!record) return;
    const whereabouts = fleet.whereabouts(user)?.site ?? null;
    const active = moves.activeOf(vm);
    const action = decideMove({
      at: record.site,
      wanted: (assignment.follow ? whereabouts : null) ?? assignment.homeSite,
      decided: decision.site,
      active: active && {
        to: active.record.to.site,
        byUser: active.record.cause !== 'presence' && active.record.cause !== 'leave',
        phase: AFTER_SWITCH.has(active.migration?.state ?? '') ? 'after-switch' : 'before-switch',
      },
    });
    // what is known of the switch may be late: then its host refuses, and the move ends as it began
    if (action === 'redirect' && active)
      await moves.abort(active.record.move, decision.reason).catch(() => {});
    if (action !== 'start') return;
    // a VM that stands still has nothing to move, and one that is being handed over is somebody's business already
    if (record.status !== 'running' || record.ownership !== 'owned') return;
    if (!this.#backoff.mayTry(vm, Date.now())) return;
    const presence = fleet.whereabouts(user);
    const nowMs = Date.now();
    // its figures begin with the presence, unless that is long ago or is of a clock that is wrong
    const isNew = presence !== undefined && this.#answeredMs.get(vm) !== presence.sinceMs;
    const agoMs = isNew ? nowMs - presence.sinceMs : 0;
    if (isNew) this.#answeredMs.set(vm, presence.sinceMs);
    await moves.request({
      vm,
      toSite: decision.site,
      user,
      cause: assignment.follow && (presence?.site ?? null) !== null ? 'presence' : 'leave',
      reason: decision.reason,
      requestedAtMs: agoMs > 0 && agoMs <= FOLLOW_SWEEP_MS ? nowMs - agoMs : nowMs,
    });
  }

  #ended(vm: string, well: boolean): void {
    if (well) this.#backoff.forget(vm);
    else this.#backoff.failed(vm, Date.now());
  }

  async close(): Promise<void> {
    this.#stop.abort();
    for (const unlisten of this.#unlisten) unlisten();
    await this.#running;
  }
}
