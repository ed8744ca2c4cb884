import type { HostSnapshot } from '../control/fleet.ts';
import type { StrategyName, VmRecord } from '../control/messages.ts';
import { place } from './placement.ts';

/** Where the VMs of a host that is drained go. */
export interface DrainPlan {
  readonly moves: readonly { vm: VmRecord; toSite: string; toHost: string; reason: string }[];
  /** Those for which there is no room, and why, for people. */
  readonly stuck: readonly { vm: VmRecord; why: string }[];
}

/** A site that VMs may go to, the best first. */
export interface Refuge {
  readonly site: string;
  readonly strategy: StrategyName;
  readonly hosts: readonly HostSnapshot[];
}

/**
 * Gives each VM a host of the first of the sites that has room, the largest VMs first, each counting with what
 * those before it will take.
 */
export function planDrain(
  host: string,
  vms: readonly VmRecord[],
  refuges: readonly Refuge[],
  options: { nowMs: number; counted: (host: string) => ReadonlySet<string> },
): DrainPlan {
  const moves: { vm: VmRecord; toSite: string; toHost: string; reason: string }[] = [];
  const stuck: { vm: VmRecord; why: string }[] = [];
  const promised = new Map<string, VmRecord[]>();
  const ordered = vms.toSorted((a, b) => b.memoryMiB - a.memoryMiB || (a.vm < b.vm ? -1 : 1));
  for (const vm of ordered) {
    const refusals: string[] = [];
    const found = refuges.some(({ site, strategy, hosts }) => {
      const promises = hosts.map((snapshot) => withPromises(snapshot, promised.get(snapshot.host) ?? []));
      const placed = place(promises, requestOf(vm, host), { ...options, strategy });
      if ('refused' in placed) {
        refusals.push(`${site}: ${placed.refused}`);
        return false;
      }
      promised.set(placed.host, [...(promised.get(placed.host) ?? []), vm]);
      const reason = `${host} is drained; ${placed.reason}`;
      moves.push({ vm, toSite: site, toHost: placed.host, reason });
      return true;
    });
    if (!found) stuck.push({ vm, why: refusals.join('; ') });
  }
  return { moves, stuck };
}

const requestOf = (vm: VmRecord, not: string) => ({
  id: `plan-${vm.vm}`,
  vm: vm.vm,
  cpus: vm.cpus,
  memoryMiB: vm.memoryMiB,
  diskMiB: vm.diskMiB,
  accelerator: vm.accelerator,
  image: vm.image,
  not: [not],
});

function withPromises(snapshot: HostSnapshot, promised: readonly VmRecord[]): HostSnapshot {
  if (promised.length === 0) return snapshot;
  const entries = promised.map(({ vm, cpus, memoryMiB, diskMiB }) => ({
    id: `plan-${vm}`,
    vm,
    cpus,
    memoryMiB,
    diskMiB,
    expiresAtMs: Number.MAX_SAFE_INTEGER,
  }));
  return { ...snapshot, reservations: [...snapshot.reservations, ...entries] };
}
