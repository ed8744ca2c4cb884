import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError, errorCode } from '../base/errors.ts';
import type { Fleet, HostSnapshot } from '../control/fleet.ts';
import type { ControlPlane } from '../control/plane.ts';
import { isRunning } from '../schedule/balance-site.ts';
import { planDrain, type Refuge } from '../schedule/drain.ts';
import { Backoff } from './backoff.ts';
import { DRAIN_SWEEP_MS, SITE_CHANGE_ATTEMPTS } from './constants.ts';
import { failCenter } from './errors.ts';
import type { Moves } from './moves/moves.ts';

export interface DrainsOptions {
  plane: ControlPlane;
  fleet: Fleet;
  moves: Moves;
  /** The center's own site: where VMs go for which the host's site has no room. */
  center: string;
  log: Logger;
}

/** How far the draining of a host is. */
export interface DrainView {
  readonly site: string;
  readonly host: string;
  readonly draining: boolean;
  /** VMs that it still has. `why`: why this one does not go now, null while it is on its way. */
  readonly left: readonly {
    vm: string;
    name: string;
    status: string;
    move: string | null;
    why: string | null;
  }[];
}

/**
 * Empties hosts that are drained: they take no VM any more, and those that run there go to other hosts of the site or, where these
 * have no room, to the center. What is drained stands in the record of the site, so it outlives every agent.
 */
export class Drains {
  readonly #options: DrainsOptions;
  readonly #backoff = new Backoff();
  readonly #stop = new AbortController();
  readonly #unlisten: (() => void)[];
  readonly #running: Promise<void>;

  private constructor(options: DrainsOptions) {
    this.#options = options;
    const { moves, fleet } = options;
    this.#unlisten = [
      moves.onChange(({ record }) => {
        if (record.endedAtMs === null || record.cause !== 'drain') return;
        if (record.state === 'completed') this.#backoff.forget(record.vm);
        else this.#backoff.failed(record.vm, Date.now());
      }),
      fleet.onChange(({ kind }) => {
        if (kind === 'site') this.#look();
      }),
    ];
    this.#running = this.#sweep();
  }

  static start(options: DrainsOptions): Drains {
    return new Drains(options);
  }

  /** From now on, or no longer. @throws HOST_UNKNOWN, CONTROL_UNREACHABLE */
  async set(site: string, host: string, draining: boolean): Promise<DrainView> {
    this.#find(site, host);
    const { sites } = this.#options.plane.buckets;
    for (let attempt = 1; ; attempt += 1) {
      const found = await sites.get(site);
      if (!found) throw failCenter('MOVE_SITE_UNKNOWN', site);
      const others = found.value.draining.filter((other) => other !== host);
      const next = { ...found.value, draining: draining ? [...others, host].toSorted() : others };
      try {
        await sites.update(site, next, found.revision);
        return { ...this.view(site, host), draining };
      } catch (error) {
        if (errorCode(error) !== 'CONTROL_CONFLICT' || attempt === SITE_CHANGE_ATTEMPTS) throw error;
      }
    }
  }

  /** @throws HOST_UNKNOWN */
  view(site: string, host: string): DrainView {
    const { fleet, moves } = this.#options;
    const snapshot = this.#find(site, host);
    const stuck = new Map(this.#plan(snapshot).stuck.map(({ vm, why }) => [vm.vm, why]));
    const left = fleet
      .vmsOf(host)
      // of a VM that is being moved both hosts have a record
      .filter(({ ownership }) => ownership !== 'incoming')
      .map((vm) => {
        const move = moves.activeOf(vm.vm)?.record.move ?? null;
        const halted = isRunning(vm)
          ? 'it waits for its move'
          : `it is ${vm.status}: only what runs is moved`;
        const why = move === null ? (stuck.get(vm.vm) ?? halted) : null;
        return { vm: vm.vm, name: vm.name, status: vm.status, move, why };
      });
    return { site, host, draining: snapshot.draining, left };
  }

  #find(site: string, host: string): HostSnapshot {
    const snapshot = this.#options.fleet.host(host);
    if (snapshot?.site !== site) throw failCenter('HOST_UNKNOWN', `${site}/${host}`);
    return snapshot;
  }

  #plan({ host, site }: HostSnapshot) {
    const { fleet, moves, center } = this.#options;
    const vms = fleet.vmsOf(host).filter((vm) => isRunning(vm) && !moves.activeOf(vm.vm));
    const refuges = [...new Set([site, center])].map((id): Refuge => {
      const strategy = fleet.site(id)?.strategy ?? 'least-loaded';
      return { site: id, strategy, hosts: fleet.hosts(id) };
    });
    const nowMs = Date.now();
    return planDrain(host, vms, refuges, { nowMs, counted: (other) => fleet.countedBy(other) });
  }

  async #sweep(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      this.#look();
      await sleep(DRAIN_SWEEP_MS, signal).catch(() => {});
    }
  }

  #look(): void {
    const { fleet, moves, log } = this.#options;
    for (const { site, draining } of fleet.sites())
      for (const id of draining) {
        const host = fleet.host(id);
        if (!host?.alive || host.site !== site || this.#stop.signal.aborted) continue;
        for (const { vm, toSite, toHost, reason } of this.#plan(host).moves) {
          if (!this.#backoff.mayTry(vm.vm, Date.now())) continue;
          const user = fleet.assignment(vm.vm)?.user ?? null;
          moves
            .request({ vm: vm.vm, toSite, toHost, user, cause: 'drain', reason })
            .catch((error: unknown) => {
              this.#backoff.failed(vm.vm, Date.now());
              log.info({ vm: vm.vm, err: asCloudapError(error).message }, 'not drained');
            });
        }
      }
  }

  async close(): Promise<void> {
    this.#stop.abort();
    for (const unlisten of this.#unlisten) unlisten();
    await this.#running;
  }
}
