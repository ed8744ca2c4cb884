import type { Fleet } from '../control/fleet.ts';
import type { VmRecord } from '../control/messages.ts';
import type { BalanceHost, BalanceVm } from './balance.ts';
import { freeOf } from './placement.ts';

/**
 * The hosts and VMs of a site as `balance` wants them. How busy one VM keeps the processors nobody measures: each has the
 * share of its host's load that its virtual processors are of all that run there, and not more than it has.
 */
export function balanceInput(
  fleet: Pick<Fleet, 'hosts' | 'vmsOf' | 'countedBy'>,
  site: string,
  nowMs: number,
  mayMove: (vm: VmRecord) => boolean,
): { hosts: BalanceHost[]; vms: BalanceVm[] } {
  const hosts: BalanceHost[] = [];
  const vms: BalanceVm[] = [];
  const found = fleet.hosts(site).filter(({ alive }) => alive);
  const runsAt = (vm: VmRecord) => (host: string) => {
    const inventory = found.find((other) => other.host === host)?.inventory;
    return inventory?.accelerator === vm.accelerator && inventory.images.includes(vm.image);
  };
  for (const snapshot of found) {
    const { host, heartbeat, draining } = snapshot;
    const { capacity, cpuLoad } = heartbeat;
    const free = freeOf(snapshot, { id: '' }, nowMs, fleet.countedBy(host));
    const cpuBusy = cpuLoad * capacity.cpus;
    hosts.push({
      host,
      capacity,
      used: {
        cpus: capacity.cpus - free.cpus,
        memoryMiB: capacity.memoryMiB - free.memoryMiB,
        diskMiB: capacity.diskMiB - free.diskMiB,
        vms: capacity.vms - free.vms,
      },
      cpuBusy,
      shut: draining ? 'is being drained' : undefined,
    });
    const running = fleet.vmsOf(host).filter(isRunning);
    const cpus = running.reduce((sum, vm) => sum + vm.cpus, 0);
    for (const vm of running) {
      if (!mayMove(vm)) continue;
      const share = cpus > 0 ? Math.min(vm.cpus, (cpuBusy * vm.cpus) / cpus) : 0;
      const { name, memoryMiB, diskMiB } = vm;
      vms.push({ vm: vm.vm, name, host, memoryMiB, diskMiB, cpuBusy: share, runsAt: runsAt(vm) });
    }
  }
  return { hosts, vms };
}

/** It can be moved: it runs, and nobody else has a hand on it. */
export const isRunning = ({ status, ownership }: VmRecord): boolean =>
  status === 'running' && ownership === 'owned';
