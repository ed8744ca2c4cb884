import { DISK_RESERVE_BYTES } from '../constants.ts';
import { failPrepare } from '../errors.ts';
import type { BaseImage, QemuFacts } from '../ports.ts';
import type { Prepare } from './messages.ts';

/** Everything about the target that decides whether a VM may come; gathered before, so that the decision is pure. */
export interface TargetFacts {
  site: string;
  qemu: QemuFacts;
  image: BaseImage | undefined;
  /** Why this QEMU cannot make the machine although it knows type and model: a CPU flag. */
  machineProblem: string | undefined;
  capacity: { memoryMiB: number; diskBytes: number | undefined; vms: number };
  used: { memoryMiB: number; diskBytes: number; vms: number };
  availableMemoryMiB: number;
  freeDiskBytes: number;
  vmExists: boolean;
  nameTaken: boolean;
  migrations: number;
  migrationsMax: number;
  /** The target can do its part in connecting the movers: it listens, or has an address to dial. */
  routable: boolean;
}

const MIB = 1024 * 1024;

/**
 * The target's decision about `migration.prepare`, cheapest and most telling first.
 * @throws PREPARE_*: the coded no
 */
export function checkPrepare(request: Prepare, caller: string, facts: TargetFacts): void {
  const { vm } = request;
  if (request.source !== caller || request.target !== facts.site) {
    throw failPrepare(
      'PREPARE_NOT_FOR_ME',
      `${request.source} to ${request.target}, asked by ${caller} at ${facts.site}`,
    );
  }
  if (facts.migrations >= facts.migrationsMax)
    throw failPrepare('PREPARE_BUSY', `${facts.migrations} are under way`);
  if (facts.vmExists) throw failPrepare('PREPARE_VM_EXISTS', vm.id);
  if (facts.nameTaken) throw failPrepare('PREPARE_NAME_TAKEN', vm.name);
  checkMachine(request, facts);
  if (!facts.image)
    throw failPrepare('PREPARE_NO_IMAGE', vm.image.slice(0, 16), { fields: { image: vm.image } });
  if (facts.image.virtualBytes !== vm.machine.diskBytes) {
    throw failPrepare(
      'PREPARE_IMAGE_DAMAGED',
      `${facts.image.virtualBytes} bytes here, ${vm.machine.diskBytes} there`,
      {
        fields: { image: vm.image },
      },
    );
  }
  checkRoom(request, facts);
  if (!facts.routable) throw failPrepare('PREPARE_NO_ROUTE', `${request.source} and ${request.target}`);
}

function checkMachine({ vm, qemuVersion }: Prepare, { qemu, machineProblem }: TargetFacts): void {
  const { machineType, cpuModel } = vm.machine;
  if (!qemu.machineTypes.has(machineType)) {
    throw failPrepare('PREPARE_MACHINE_UNKNOWN', `${machineType} on QEMU ${qemu.version}`, {
      fields: { machineType },
    });
  }
  const model = cpuModel.split(',')[0] ?? '';
  if (!qemu.cpuModels.has(model)) throw failPrepare('PREPARE_CPU_UNKNOWN', model, { fields: { cpuModel } });
  if (vm.accelerator !== qemu.accelerator) {
    throw failPrepare('PREPARE_ACCELERATOR', `${vm.accelerator} there, ${qemu.accelerator} here`);
  }
  if (compareVersions(qemu.version, qemuVersion) < 0) {
    throw failPrepare('PREPARE_QEMU_TOO_OLD', `${qemu.version} here, ${qemuVersion} there`, {
      fields: { source: qemuVersion, target: qemu.version },
    });
  }
  if (machineProblem !== undefined) {
    throw failPrepare('PREPARE_CPU_UNKNOWN', machineProblem, { fields: { cpuModel } });
  }
}

function checkRoom({ vm, overlayBytes }: Prepare, facts: TargetFacts): void {
  const { capacity, used } = facts;
  if (used.vms >= capacity.vms) throw failPrepare('PREPARE_TOO_MANY_VMS', `${used.vms} of ${capacity.vms}`);
  const memoryLeft = Math.min(capacity.memoryMiB - used.memoryMiB, facts.availableMemoryMiB);
  if (memoryLeft < vm.machine.memoryMiB) {
    throw failPrepare(
      'PREPARE_NO_MEMORY',
      `${vm.machine.memoryMiB} MiB needed, ${Math.max(0, memoryLeft)} MiB left`,
      {
        fields: { neededMiB: vm.machine.memoryMiB, leftMiB: memoryLeft },
      },
    );
  }
  const configured =
    capacity.diskBytes === undefined ? Number.POSITIVE_INFINITY : capacity.diskBytes - used.diskBytes;
  const diskLeft = Math.min(configured, facts.freeDiskBytes - DISK_RESERVE_BYTES);
  if (diskLeft < overlayBytes) {
    const left = `${Math.floor(Math.max(0, diskLeft) / MIB)} MiB left`;
    throw failPrepare('PREPARE_NO_DISK', `${Math.ceil(overlayBytes / MIB)} MiB needed, ${left}`, {
      fields: { neededBytes: overlayBytes, leftBytes: diskLeft },
    });
  }
}

/**
 * Below, at or above 0 as `a` is older, the same or newer, by major and minor version: releases that differ in the
 * last number only (Debian's updates of 7.2) read each other's state.
 */
export function compareVersions(a: string, b: string): number {
  const parts = (text: string): number[] => text.split('.').map(Number);
  const [a1 = 0, a2 = 0] = parts(a);
  const [b1 = 0, b2 = 0] = parts(b);
  return a1 - b1 || a2 - b2;
}
