import type { HostSnapshot } from '../../src/control/fleet.ts';
import type { Heartbeat, Inventory, Resources, VmRecord } from '../../src/control/messages.ts';

export const IMAGE = 'a'.repeat(64);

export function heartbeat(site: string, host: string, change: Partial<Heartbeat> = {}): Heartbeat {
  return {
    version: 1,
    host,
    site,
    startedAtMs: 1,
    seq: 1,
    atMs: 1,
    capacity: { cpus: 8, memoryMiB: 4096, diskMiB: 100_000, vms: 8 },
    used: { cpus: 0, memoryMiB: 0, diskMiB: 0, vms: 0 },
    cpuLoad: 0,
    migrations: 0,
    links: [],
    ...change,
  };
}

export const inventory = (site: string, host: string, images: string[] = [IMAGE]): Inventory => ({
  version: 1,
  host,
  site,
  cloudapVersion: '0',
  qemuVersion: '7.2',
  accelerator: 'tcg',
  address: null,
  relay: false,
  images,
  templates: [],
});

export function snapshot(
  host: string,
  used: Partial<Resources> = {},
  change: Partial<HostSnapshot> = {},
  site = 's',
): HostSnapshot {
  const beat = heartbeat(site, host);
  return {
    host,
    site,
    alive: true,
    draining: false,
    heartbeat: { ...beat, used: { ...beat.used, ...used } },
    inventory: inventory(site, host),
    reservations: [],
    ...change,
  };
}

export const vmRecord = (vm: string): VmRecord => ({
  version: 1,
  vm,
  name: 'desk',
  host: 'h1',
  site: 's',
  status: 'running',
  generation: 1,
  ownership: 'owned',
  image: IMAGE,
  template: null,
  cpus: 1,
  memoryMiB: 512,
  diskMiB: 0,
  accelerator: 'tcg',
  machineType: 'pc',
  cpuModel: 'qemu64',
  migration: null,
  updatedAtMs: 1,
});
