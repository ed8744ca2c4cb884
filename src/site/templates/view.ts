import { stat } from 'node:fs/promises';
import type { Template } from '../../content/templates/store.ts';
import type { TemplateView } from '../api/template-messages.ts';
import type { VmManager } from '../vm/manager.ts';

const STAT_BLOCK_BYTES = 512;

/** Names of the VMs that run at this site and came from a template. */
export function vmsOfTemplate(vms: VmManager, digest: string): string[] {
  return vms.store
    .list()
    .filter(
      (vm) => vm.definition.template === digest && (vms.qemu(vm) !== undefined || vm.busy !== undefined),
    )
    .map((vm) => vm.definition.name);
}

/** A template as the API shows it. */
export async function viewTemplate(vms: VmManager, template: Template): Promise<TemplateView> {
  const { manifest, folder, overlayPath, ramPath, devicesPath } = template;
  const { digest, name, createdAt, image, machine, accelerator, qemuVersion } = manifest;
  const sizes = await Promise.all(
    [overlayPath, ramPath, devicesPath].map((path) =>
      stat(path).then(
        ({ blocks }) => blocks * STAT_BLOCK_BYTES,
        () => 0,
      ),
    ),
  );
  return {
    digest,
    name,
    createdAt,
    folder,
    image,
    memoryMiB: machine.memoryMiB,
    cpus: machine.cpus,
    machineType: machine.machineType,
    cpuModel: machine.cpuModel,
    accelerator,
    qemuVersion,
    overlayBytes: manifest.overlay.fileBytes,
    ramBytes: manifest.ram.fileBytes,
    devicesBytes: manifest.devices.fileBytes,
    allocatedBytes: sizes.reduce((sum, bytes) => sum + bytes, 0),
    usedBy: vmsOfTemplate(vms, digest),
  };
}
