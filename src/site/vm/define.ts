import { randomUUID } from 'node:crypto';
import type { Template } from '../../content/templates/store.ts';
import { parseMachineSpec } from '../../qemu/machine-spec.ts';
import { DEFAULT_CPU_MODEL, DEFAULT_MACHINE_TYPE } from '../constants.ts';
import { newVmId } from '../ids.ts';
import type { BaseImage, QemuFacts } from '../ports.ts';
import type { VmDefinition } from './definition.ts';

/** What somebody who makes a VM may choose; the image has the rest. */
export interface MachineChoice {
  readonly memoryMiB?: number | undefined;
  readonly cpus?: number | undefined;
  /** Added to the image's kernel command line. */
  readonly append?: string | undefined;
  readonly machineType?: string | undefined;
  readonly cpuModel?: string | undefined;
}

/** A new VM of an image. @throws QEMU_SPEC_INVALID */
export function defineVm(
  name: string,
  image: BaseImage,
  choice: MachineChoice,
  accelerator: QemuFacts['accelerator'],
  id = newVmId(),
): VmDefinition {
  const { defaults } = image;
  const commandLine = [image.commandLine, choice.append ?? ''].filter((part) => part !== '').join(' ');
  return {
    ...newVm(name, id),
    image: image.digest,
    accelerator,
    machine: parseMachineSpec({
      machineType: choice.machineType ?? DEFAULT_MACHINE_TYPE,
      cpuModel: choice.cpuModel ?? DEFAULT_CPU_MODEL,
      cpus: choice.cpus ?? defaults.cpus,
      memoryMiB: choice.memoryMiB ?? defaults.memoryMiB,
      diskBytes: image.virtualBytes,
      display: defaults.display,
      input: defaults.input,
      serialPorts: image.serialPorts,
      ...(image.kernelPath === undefined
        ? {}
        : {
            directBoot: {
              kernel: 'kernel',
              ...(image.initrdPath === undefined ? {} : { initrd: 'initrd' }),
              commandLine,
            },
          }),
      uuid: randomUUID(),
    }),
  };
}

/**
 * A new VM of a template: its machine, but an identity of its own. QEMU does not compare the UUID with the saved state;
 * the guest reads it at its next boot.
 */
export function defineFromTemplate(name: string, { manifest }: Template, id = newVmId()): VmDefinition {
  const { image, accelerator, machine, digest } = manifest;
  return {
    ...newVm(name, id),
    image,
    template: digest,
    accelerator,
    machine: parseMachineSpec({ ...machine, uuid: randomUUID() }),
  };
}

function newVm(name: string, id: string): Pick<VmDefinition, 'version' | 'id' | 'name' | 'createdAtMs'> {
  return { version: 1, id, name, createdAtMs: Date.now() };
}
