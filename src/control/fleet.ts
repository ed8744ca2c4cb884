import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import type { Change } from './bucket.ts';
import { SILENT_AFTER_MS } from './constants.ts';
import { GroupedMap } from './fleet-index.ts';
import { heartbeatSchema } from './messages.ts';
import type {
  Assignment,
  Heartbeat,
  Inventory,
  NodeRecord,
  Reservations,
  SiteRecord,
  VmRecord,
  Whereabouts,
} from './messages.ts';
import type { ControlPlane } from './plane.ts';
import { parse } from './requests.ts';
import { heartbeatsOf, heartbeatSubject, untoken } from './subjects.ts';

/** Whether hosts still live is looked at this often. */
const LIVENESS_MS = 250;

/** How long a watch that broke off waits before it begins anew. */
const REWATCH_MS = 500;

interface Heard {
  readonly beat: Heartbeat;
  readonly heardAtMs: number;
}

/** A host as the scheduler sees it. */
export interface HostSnapshot {
  readonly host: string;
  readonly site: string;
  /** Its heartbeats come. */
  readonly alive: boolean;
  /** It takes no VM any more. */
  readonly draining: boolean;
  readonly heartbeat: Heartbeat;
  readonly inventory: Inventory | undefined;
  readonly reservations: Reservations['entries'];
}

/** `host`: it came or has news; `silent`: a host's heartbeats have ceased; `vm`: one of its VMs. */
export interface FleetChange {
  readonly kind: 'host' | 'silent' | 'vm' | 'user' | 'site' | 'assignment';
  readonly id: string;
}

/**
 * All of the control plane's records in memory, kept current by watches: what the scheduler, the center and its API look at. A
 * host is alive while its heartbeats come, by the clock of who looks: clocks of hosts may be wrong.
 */
export class Fleet {
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #stop = new AbortController();
  readonly #sites = new Map<string, SiteRecord>();
  readonly #nodes = new Map<string, NodeRecord>();
  /** By host, in groups by site. */
  readonly #heartbeats = new GroupedMap<string, Heard>(({ beat }) => beat.site);
  readonly #inventories = new Map<string, Inventory>();
  readonly #reservations = new Map<string, Reservations>();
  /** What each host says of a VM, by VM and host: mostly one, two while it moves. */
  readonly #vms = new Map<string, Map<string, VmRecord>>();
  /** VMs that each host says it has. */
  readonly #vmsOf = new Map<string, Map<string, VmRecord>>();
  /** By VM, in groups by user; and VMs by name. */
  readonly #assignments = new GroupedMap<string, Assignment>(({ user }) => user);
  readonly #named = new Map<string, string>();
  readonly #whereabouts = new Map<string, Whereabouts>();
  readonly #silent = new Set<string>();
  readonly #listeners = new Set<(change: FleetChange) => void>();
  readonly #watches: Promise<void>[] = [];

  private constructor(log: Logger, now: () => number) {
    this.#log = log;
    this.#now = now;
  }

  /**
   * Returns when every bucket has been read. `now` is a monotonic clock in ms. With `site` it holds that site's hosts and VMs
   * only, and none of the records that the center keeps of VMs and users: what a site's agent needs.
   */
  static async open(
    plane: ControlPlane,
    log: Logger,
    options: { site?: string; now?: () => number } = {},
  ): Promise<Fleet> {
    const { site, now = () => performance.now() } = options;
    const fleet = new Fleet(log, now);
    const ofSite = site === undefined ? undefined : `${site}.>`;
    const { buckets } = plane;
    const keyed =
      <T>(map: { set(id: string, value: T): void; delete(id: string): void }, kind: FleetChange['kind']) =>
      ({ key, value }: Change<T>): void => {
        const id = untoken(key);
        if (value === undefined) map.delete(id);
        else map.set(id, value);
        fleet.#tell({ kind, id });
      };
    const beats = plane.connection.subscribe(heartbeatsOf(site));
    fleet.#stop.signal.addEventListener('abort', () => beats.unsubscribe(), { once: true });
    fleet.#watches.push(
      (async () => {
        for await (const { subject, data } of beats) fleet.#heard(subject, data);
      })(),
    );
    const looking = setInterval(() => fleet.#lookForSilent(), LIVENESS_MS);
    fleet.#stop.signal.addEventListener('abort', () => clearInterval(looking), { once: true });
    await Promise.all([
      fleet.#watch('sites', (signal) => buckets.sites.watch(signal), keyed(fleet.#sites, 'site')),
      fleet.#watch('nodes', (signal) => buckets.nodes.watch(signal), keyed(fleet.#nodes, 'site')),
      fleet.#watch(
        'inventories',
        (signal) => buckets.inventories.watch(signal, ofSite),
        ({ value }) => {
          if (value) fleet.#inventories.set(value.host, value);
          if (value) fleet.#tell({ kind: 'host', id: value.host });
        },
      ),
      fleet.#watch(
        'reservations',
        (signal) => buckets.reservations.watch(signal, ofSite),
        keyed(fleet.#reservations, 'host'),
      ),
      ...(site === undefined
        ? [
            fleet.#watch(
              'assignments',
              (signal) => buckets.assignments.watch(signal),
              keyed(fleet.#assignments, 'assignment'),
            ),
            fleet.#watch(
              'whereabouts',
              (signal) => buckets.whereabouts.watch(signal),
              keyed(fleet.#whereabouts, 'user'),
            ),
          ]
        : []),
      fleet.#watch(
        'vms',
        (signal) => buckets.vms.watch(signal, ofSite),
        (change) => fleet.#vm(change),
      ),
    ]);
    return fleet;
  }

  async #watch<T>(
    name: string,
    open: (signal: AbortSignal) => AsyncGenerator<Change<T>>,
    take: (change: Change<T>) => void,
  ): Promise<void> {
    const { signal } = this.#stop;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#watches.push(
      (async () => {
        while (!signal.aborted) {
          try {
            for await (const change of open(signal)) {
              if (change.key !== '') take(change);
              if (change.complete) resolve();
            }
          } catch (error) {
            if (!signal.aborted)
              this.#log.warn({ bucket: name, err: asCloudapError(error).message }, 'watch');
          }
          await sleep(REWATCH_MS, signal).catch(() => {});
        }
      })(),
    );
    await promise;
  }

  /** What the sender may not say of others its subject tells. */
  #heard(subject: string, data: Uint8Array): void {
    let beat: Heartbeat | undefined;
    try {
      beat = parse(heartbeatSchema, data, 'CONTROL_BAD_REQUEST', 'a heartbeat');
    } catch (error) {
      this.#log.warn({ subject, err: asCloudapError(error).message }, 'heartbeat');
      return;
    }
    const { host, site } = beat;
    if (subject !== heartbeatSubject(site, host)) return;
    const before = this.#heartbeats.get(host);
    if (before && !isNewer(beat, before.beat)) return;
    this.#heartbeats.set(host, { beat, heardAtMs: this.#now() });
    if (this.#silent.delete(host)) this.#log.info({ host, site }, 'host is back');
    this.#tell({ kind: 'host', id: host });
  }

  #lookForSilent(): void {
    for (const id of this.#heartbeats.keys()) {
      if (this.#silent.has(id) || this.alive(id)) continue;
      this.#silent.add(id);
      this.#log.warn({ host: id, site: this.#heartbeats.get(id)?.beat.site }, 'host is silent');
      this.#tell({ kind: 'silent', id });
    }
  }

  #vm({ key, value }: Change<VmRecord>): void {
    const [site = '', host = '', vm = ''] = key.split('.');
    if (value && (value.site !== site || value.host !== host || value.vm !== vm)) return;
    const said = this.#vms.get(vm) ?? new Map<string, VmRecord>();
    if (value) said.set(host, value);
    else said.delete(host);
    const own = this.#vmsOf.get(host) ?? new Map<string, VmRecord>();
    this.#vmsOf.set(host, own);
    if (value) own.set(vm, value);
    else own.delete(vm);
    if (value) this.#named.set(value.name, vm);
    if (said.size > 0) this.#vms.set(vm, said);
    else this.#vms.delete(vm);
    this.#tell({ kind: 'vm', id: vm });
  }

  #tell(change: FleetChange): void {
    for (const listener of this.#listeners) listener(change);
  }

  onChange(listener: (change: FleetChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  site(id: string): SiteRecord | undefined {
    return this.#sites.get(id);
  }

  sites(): SiteRecord[] {
    return [...this.#sites.values()];
  }

  nodes(): NodeRecord[] {
    return [...this.#nodes.values()];
  }

  /** Its heartbeats come. */
  alive(host: string): boolean {
    const heard = this.#heartbeats.get(host);
    return heard !== undefined && this.#now() - heard.heardAtMs <= SILENT_AFTER_MS;
  }

  host(id: string): HostSnapshot | undefined {
    const heard = this.#heartbeats.get(id);
    if (!heard) return undefined;
    const { beat } = heard;
    return {
      host: id,
      site: beat.site,
      alive: this.alive(id),
      draining: this.#sites.get(beat.site)?.draining.includes(id) ?? false,
      heartbeat: beat,
      inventory: this.#inventories.get(id),
      reservations: this.#reservations.get(`${beat.site}.${id}`)?.entries ?? [],
    };
  }

  /** All hosts that have ever been heard of, or those of one site. */
  hosts(site?: string): HostSnapshot[] {
    const ids = site === undefined ? this.#heartbeats.keys() : this.#heartbeats.of(site);
    return [...ids].map((id) => this.host(id)).filter((host) => host !== undefined);
  }

  /** Where the VM is: by the word of the host that owns it, the highest generation counting; else whoever had it last. */
  vm(id: string): VmRecord | undefined {
    const said = this.#vms.get(id);
    if (!said) return undefined;
    let best: VmRecord | undefined;
    for (const record of said.values()) if (!best || rank(record) > rank(best)) best = record;
    return best;
  }

  /** By id, or by name. */
  findVm(reference: string): VmRecord | undefined {
    const found = this.vm(reference) ?? this.vm(this.#named.get(reference) ?? '');
    return found && (found.vm === reference || found.name === reference) ? found : undefined;
  }

  vms(): VmRecord[] {
    return [...this.#vms.keys()].map((id) => this.vm(id)).filter((vm) => vm !== undefined);
  }

  /** VMs that a host says it has, owned or not. */
  vmsOf(host: string): VmRecord[] {
    return [...(this.#vmsOf.get(host)?.values() ?? [])];
  }

  /** VMs that the last heartbeat of a host counts: its record of them is older. */
  countedBy(host: string): ReadonlySet<string> {
    const beat = this.#heartbeats.get(host)?.beat;
    const counted = this.vmsOf(host).filter(
      ({ updatedAtMs }) => beat !== undefined && updatedAtMs < beat.atMs,
    );
    return new Set(counted.map(({ vm }) => vm));
  }

  assignment(vm: string): Assignment | undefined {
    return this.#assignments.get(vm);
  }

  assignments(): Assignment[] {
    return [...this.#assignments.values()];
  }

  /** VMs of a user. */
  assignedTo(user: string): readonly string[] {
    return [...this.#assignments.of(user)];
  }

  whereabouts(user: string): Whereabouts | undefined {
    return this.#whereabouts.get(user);
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#watches);
  }
}

function isNewer(beat: Heartbeat, before: Heartbeat): boolean {
  if (beat.startedAtMs !== before.startedAtMs) return beat.startedAtMs > before.startedAtMs;
  return beat.seq > before.seq;
}

/** Owned before offered before incoming; among those of one kind the later generation. */
function rank({ ownership, generation }: VmRecord): number {
  const kind = { owned: 2, offered: 1, incoming: 0 }[ownership];
  return kind * 1e9 + generation;
}
