import { readOwnership } from '../../migration/ownership.ts';
import type { VmView } from '../api/messages.ts';
import type { BaseImage } from '../ports.ts';
import type { VmManager } from './manager.ts';
import type { StoredVm } from './store.ts';

/** A VM as the API shows it. */
export async function viewVm(
  site: string,
  vms: VmManager,
  vm: StoredVm,
  migrationId: string | undefined,
  image: BaseImage | undefined,
): Promise<VmView> {
  const { definition, paths } = vm;
  const { machine } = definition;
  const [ownership, runState] = await Promise.all([readOwnership(paths.ownershipFile), vms.runState(vm)]);
  const qemu = vms.qemu(vm);
  const live = qemu !== undefined;
  const status = ((): VmView['status'] => {
    if (vm.problem) return 'degraded';
    if (ownership.state === 'incoming') return 'incoming';
    if (migrationId !== undefined && ownership.owner === site) return 'migrating';
    if (!live) return 'stopped';
    return runState === undefined || runState === 'running' ? 'running' : 'paused';
  })();
  return {
    id: definition.id,
    name: definition.name,
    site,
    status,
    problem: vm.problem ?? null,
    owner: ownership.owner,
    generation: ownership.generation,
    ownership: ownership.state,
    image: definition.image,
    imageName: image?.name ?? null,
    template: definition.template ?? null,
    memoryMiB: machine.memoryMiB,
    cpus: machine.cpus,
    accelerator: definition.accelerator,
    machineType: machine.machineType,
    cpuModel: machine.cpuModel,
    createdAtMs: definition.createdAtMs,
    pid: qemu?.identity.pid ?? null,
    migrationId: migrationId ?? null,
    dir: paths.dir,
    serialLog: paths.serialLog,
    vncSocket: live && machine.display === 'vga' ? paths.vncSocket : null,
    serialSocket: live ? paths.serialSocket : null,
    serial1Socket: live && machine.serialPorts === 2 ? paths.serial1Socket : null,
  };
}
