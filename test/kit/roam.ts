import { sleep } from '../../src/base/async.ts';
import { moveViewSchema } from '../../src/portal/messages.ts';
import type { MoveRecord } from '../../src/control/messages.ts';
import { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import type { TwoTier } from '../../src/lab/two-tier.ts';
import { vmViewSchema } from '../../src/site/api/messages.ts';
import { seeded } from '../migration/disk-link.ts';
import { centerVm } from './twoTier.ts';

/** A user arrives at a site, or leaves the one where they are, after a pause. */
export interface RoamEvent {
  readonly afterMs: number;
  readonly user: string;
  readonly site: string;
  readonly kind: 'arrive' | 'leave';
}

/** A day: users walk between the sites at random and go home now and then; the same seed is the same day. */
export function dayOf(plan: {
  seed: number;
  users: readonly string[];
  sites: readonly string[];
  events: number;
  pauseMs: number;
}): { events: RoamEvent[]; last: ReadonlyMap<string, string | null> } {
  const random = seeded(plan.seed);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  const last = new Map<string, string | null>();
  const events = Array.from({ length: plan.events }, (): RoamEvent => {
    const user = pick(plan.users);
    const at = last.get(user) ?? null;
    const afterMs = Math.floor(random() * 2 * plan.pauseMs);
    if (at !== null && random() < 0.15) {
      last.set(user, null);
      return { afterMs, user, site: at, kind: 'leave' };
    }
    const site = pick(plan.sites.filter((other) => other !== at));
    last.set(user, site);
    return { afterMs, user, site, kind: 'arrive' };
  });
  return { events, last };
}

/** Has the guest write and check memory and disk from now on, so many operations a second. */
export async function loaded(system: TwoTier, vm: string, rate: number): Promise<void> {
  for (;;) {
    try {
      const { vm: at } = await centerVm(system, vm);
      const view = await system.host(at.host).json('GET', `/vms/${vm}`, vmViewSchema);
      using work = await WorkloadClient.connect(view.serial1Socket ?? '');
      await work.ready();
      if ((await work.command(`start disk=${rate} mem=${rate}`)).ok) return;
    } catch {
      // its guest boots, or its record is not there yet
    }
    await sleep(200);
  }
}

/** Collects the records of all moves while they are made: the API lists the latest only. */
export class MoveLog implements AsyncDisposable {
  readonly records = new Map<string, MoveRecord>();
  readonly #system: TwoTier;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  private constructor(system: TwoTier) {
    this.#system = system;
    this.#running = this.#collect();
  }

  static start(system: TwoTier): MoveLog {
    return new MoveLog(system);
  }

  async look(): Promise<readonly MoveRecord[]> {
    const list = await this.#system.center.all('/moves', moveViewSchema);
    for (const { record } of list) this.records.set(record.move, record);
    return [...this.records.values()].toSorted((a, b) => a.requestedAtMs - b.requestedAtMs);
  }

  async #collect(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await this.look().catch(() => {});
      await sleep(1000, signal).catch(() => {});
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}

/** What a day was like, in numbers. Times in ms. */
export function figuresOf(moves: readonly MoveRecord[]): Record<string, number> {
  const of = (state: string): number => moves.filter((move) => move.state === state).length;
  const all = (name: 'switchTimeMs' | 'downtimeMs'): number[] =>
    moves.flatMap(({ figures }) => (figures ? [figures[name]] : [])).toSorted((a, b) => a - b);
  const quantile = (values: readonly number[], q: number): number =>
    Math.round(values[Math.min(values.length - 1, Math.floor(q * values.length))] ?? 0);
  return {
    moves: moves.length,
    completed: of('completed'),
    cancelled: of('cancelled'),
    failed: of('failed'),
    stayed: of('stayed'),
    switchTimeMedianMs: quantile(all('switchTimeMs'), 0.5),
    switchTimeP95Ms: quantile(all('switchTimeMs'), 0.95),
    downtimeMedianMs: quantile(all('downtimeMs'), 0.5),
    downtimeP95Ms: quantile(all('downtimeMs'), 0.95),
    migratedMiB: Math.round(
      moves.reduce((sum, { figures }) => sum + (figures?.totalBytes ?? 0), 0) / 2 ** 20,
    ),
  };
}

/** The most moves at once on any link between two sites, by what their records say. */
export function mostPerLink(moves: readonly MoveRecord[]): number {
  let most = 0;
  const linkOf = ({ from, to }: MoveRecord): string => [from.site, to.site].toSorted().join(' ');
  for (const [, onLink] of Map.groupBy(moves, linkOf)) {
    const steps = onLink.flatMap(({ startedAtMs, endedAtMs }) =>
      startedAtMs === null
        ? []
        : [
            { atMs: startedAtMs, by: 1 },
            { atMs: endedAtMs ?? Infinity, by: -1 },
          ],
    );
    // one that begins in the millisecond in which another ended took its place
    steps.sort((a, b) => a.atMs - b.atMs || a.by - b.by);
    let now = 0;
    for (const { by } of steps) most = Math.max(most, (now += by));
  }
  return most;
}
