import type { HostSnapshot } from '../control/fleet.ts';
import type { Place, Resources, StrategyName } from '../control/messages.ts';
import { choose, strategies, type Candidate } from './strategies.ts';

export interface Placement {
  readonly host: string;
  /** For people. */
  readonly reason: string;
}

/** What is free on a host when everything promised has been taken, without what this request holds there already. */
export function freeOf(
  { heartbeat, reservations }: HostSnapshot,
  request: Pick<Place, 'id'>,
  nowMs: number,
  /** VMs that the host's own figures include. */
  counted: ReadonlySet<string>,
): Resources {
  const { capacity, used } = heartbeat;
  const free = {
    cpus: capacity.cpus - used.cpus,
    memoryMiB: capacity.memoryMiB - used.memoryMiB,
    diskMiB: capacity.diskMiB - used.diskMiB,
    vms: capacity.vms - used.vms,
  };
  for (const entry of reservations) {
    if (entry.expiresAtMs <= nowMs || entry.id === request.id || counted.has(entry.vm)) continue;
    free.cpus -= entry.cpus;
    free.memoryMiB -= entry.memoryMiB;
    free.diskMiB -= entry.diskMiB;
    free.vms -= 1;
  }
  return free;
}

/**
 * Chooses a host of a site. Virtual CPUs may be overcommitted; memory, disk and VM slots may not.
 * @returns the host and why, or for each host why not
 */
export function place(
  hosts: readonly HostSnapshot[],
  request: Place,
  options: {
    strategy: StrategyName;
    nowMs: number;
    counted: (host: string) => ReadonlySet<string>;
  },
): Placement | { refused: string } {
  const refusals: string[] = [];
  const candidates: Candidate[] = [];
  for (const snapshot of hosts) {
    const { host, heartbeat } = snapshot;
    const free = freeOf(snapshot, request, options.nowMs, options.counted(host));
    const why = refusal(snapshot, request, free);
    if (why) refusals.push(`${host}: ${why}`);
    else candidates.push(candidateOf(heartbeat.capacity, free, request, host, heartbeat.cpuLoad));
  }
  const best = choose(strategies[options.strategy], candidates);
  if (!best) return { refused: refusals.length > 0 ? refusals.toSorted().join('; ') : 'it has no hosts' };
  const left = Math.round(100 * Math.min(best.memory, best.disk, best.vms));
  return {
    host: best.host,
    reason: `${options.strategy} of ${candidates.length}: ${best.host} keeps ${left} % of what is scarcest there`,
  };
}

function candidateOf(
  capacity: Resources,
  free: Resources,
  request: Place,
  host: string,
  cpuLoad: number,
): Candidate {
  const share = (left: number, whole: number): number => (whole <= 0 ? 0 : left / whole);
  return {
    host,
    cpuLoad,
    cpus: Math.max(0, share(free.cpus - request.cpus, capacity.cpus)),
    memory: share(free.memoryMiB - request.memoryMiB, capacity.memoryMiB),
    disk: share(free.diskMiB - request.diskMiB, capacity.diskMiB),
    vms: share(free.vms - 1, capacity.vms),
  };
}

function refusal(snapshot: HostSnapshot, request: Place, free: Resources): string | undefined {
  const { host, alive, inventory } = snapshot;
  if (request.not?.includes(host)) return 'is not to be taken';
  if (request.only !== undefined && request.only !== host) return 'is not the one that was asked for';
  if (!alive) return 'is silent';
  if (snapshot.draining) return 'is being drained';
  if (!inventory) return 'has not said what it has';
  if (request.accelerator && inventory.accelerator !== request.accelerator)
    return `runs VMs by ${inventory.accelerator}, not ${request.accelerator}`;
  if (!inventory.images.includes(request.image)) return 'does not have the image';
  if (free.memoryMiB < request.memoryMiB)
    return `${Math.max(0, Math.floor(free.memoryMiB))} MiB of memory are left of ${request.memoryMiB} that it takes`;
  if (free.diskMiB < request.diskMiB)
    return `${Math.max(0, Math.floor(free.diskMiB))} MiB of disk are left of ${request.diskMiB} that it takes`;
  if (free.vms < 1) return 'has no place for another VM';
  return undefined;
}
