import { errorCode } from '../base/errors.ts';
import type { Fleet, HostSnapshot } from '../control/fleet.ts';
import {
  placeSchema,
  releaseSchema,
  type Placed,
  type Reservations,
  type StrategyName,
} from '../control/messages.ts';
import type { ControlPlane } from '../control/plane.ts';
import { method, type Method } from '../control/requests.ts';
import type * as z from 'zod';
import { PLACE_ATTEMPTS, RESERVATION_MS } from './constants.ts';
import { failSchedule } from './errors.ts';
import { place } from './placement.ts';

type Request = z.output<typeof placeSchema>;

export interface SitePlacerOptions {
  plane: ControlPlane;
  fleet: Fleet;
  site: string;
  /** Unix time; reservations of other sites' clocks do not meet. */
  now?: () => number;
}

/**
 * A site's word on who may come: chooses a host and holds the room there until the VM counts by itself, or the
 * reservation ends. Reservations are changed by compare-and-swap, so several of these may be at work at once.
 */
export class SitePlacer {
  readonly #options: SitePlacerOptions;
  readonly #now: () => number;

  constructor(options: SitePlacerOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
  }

  /** For `serveRequests` under `cloudap.v1.site.<site>`. */
  methods(): Readonly<Record<string, Method>> {
    return {
      place: method(placeSchema, (request) => this.place(request)),
      release: method(releaseSchema, ({ id, host }) => this.release(id, host)),
    };
  }

  /** @throws PLACE_NO_ROOM, PLACE_CONTENDED, CONTROL_UNREACHABLE */
  async place(request: Request): Promise<Placed> {
    const { fleet, site } = this.#options;
    const strategy: StrategyName = request.strategy ?? fleet.site(site)?.strategy ?? 'least-loaded';
    for (let attempt = 1; attempt <= PLACE_ATTEMPTS; attempt++) {
      const hosts = await this.#hosts();
      const nowMs = this.#now();
      const held = heldBy(hosts, request.id, nowMs);
      if (held) return held;
      const found = place(hosts, request, {
        strategy,
        nowMs,
        counted: (host) => fleet.countedBy(host),
      });
      if ('refused' in found) throw failSchedule('PLACE_NO_ROOM', `${site}: ${found.refused}`);
      const expiresAtMs = nowMs + RESERVATION_MS;
      const { id, vm, cpus, memoryMiB, diskMiB } = request;
      const entry = { id, vm, cpus, memoryMiB, diskMiB, expiresAtMs };
      try {
        await this.#change(hosts, found.host, (entries) => [...entries, entry]);
        return { host: found.host, reason: found.reason, expiresAtMs };
      } catch (error) {
        if (errorCode(error) !== 'CONTROL_CONFLICT') throw error;
      }
    }
    throw failSchedule('PLACE_CONTENDED', site);
  }

  /** Also where there is none. */
  async release(id: string, host: string): Promise<{ released: boolean }> {
    for (let attempt = 1; attempt <= PLACE_ATTEMPTS; attempt++) {
      const hosts = await this.#hosts();
      const there = hosts.find((found) => found.host === host)?.reservations.some((entry) => entry.id === id);
      if (!there) return { released: false };
      try {
        await this.#change(hosts, host, (entries) => entries.filter((entry) => entry.id !== id));
        return { released: true };
      } catch (error) {
        if (errorCode(error) !== 'CONTROL_CONFLICT') throw error;
      }
    }
    throw failSchedule('PLACE_CONTENDED', host);
  }

  /**
   * With reservations as they are now and not as a watch last brought them: what is decided on is what is swapped. Heartbeats
   * are looked at after them, and not awaited for any more before the decision: a VM counts by its reservation, or by the
   * heartbeat that the host is judged by, but never by neither.
   */
  async #hosts(): Promise<(HostSnapshot & { revision: number })[]> {
    const { plane, fleet, site } = this.#options;
    const reserved = await Promise.all(
      fleet.hosts(site).map(async ({ host }) => ({
        host,
        found: await plane.buckets.reservations.get(`${site}.${host}`),
      })),
    );
    return reserved.flatMap(({ host, found }) => {
      const snapshot = fleet.host(host);
      if (!snapshot) return [];
      return [{ ...snapshot, reservations: found?.value.entries ?? [], revision: found?.revision ?? 0 }];
    });
  }

  /** @throws CONTROL_CONFLICT */
  async #change(
    hosts: readonly (HostSnapshot & { revision: number })[],
    host: string,
    change: (entries: Reservations['entries']) => Reservations['entries'],
  ): Promise<void> {
    const { plane, fleet, site } = this.#options;
    const snapshot = hosts.find((found) => found.host === host);
    if (!snapshot) return;
    const nowMs = this.#now();
    const there = fleet.countedBy(host);
    // what has ended, or counts by itself, goes at the next change
    const kept = snapshot.reservations.filter(({ expiresAtMs, vm }) => expiresAtMs > nowMs && !there.has(vm));
    const record: Reservations = { version: 1, host, entries: change(kept) };
    const key = `${site}.${host}`;
    const { reservations } = plane.buckets;
    await (snapshot.revision === 0
      ? reservations.create(key, record)
      : reservations.update(key, record, snapshot.revision));
  }
}

/** Asked again: what it got before. */
function heldBy(hosts: readonly HostSnapshot[], id: string, nowMs: number): Placed | undefined {
  for (const { host, reservations } of hosts) {
    const entry = reservations.find((found) => found.id === id && found.expiresAtMs > nowMs);
    if (entry) return { host, reason: `reserved before`, expiresAtMs: entry.expiresAtMs };
  }
  return undefined;
}
