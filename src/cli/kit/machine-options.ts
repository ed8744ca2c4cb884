import type { Command } from 'commander';
import type { CreateVm } from '../../site/api/messages.ts';
import { CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB } from '../../site/constants.ts';
import { wholeNumber } from './command.ts';

/** What a user may choose of the machine that an image gets, for a VM and for a template alike. */
export interface MachineOptions {
  memory?: number;
  cpus?: number;
  append?: string;
  machine?: string;
  cpu?: string;
}

export function withMachine(command: Command): Command {
  return command
    .option(
      '--memory <mib>',
      'memory in MiB (default: the image’s)',
      wholeNumber('--memory', MEMORY_MIN_MIB, MEMORY_MAX_MIB),
    )
    .option('--cpus <n>', 'virtual CPUs (default: the image’s)', wholeNumber('--cpus', 1, CPUS_MAX))
    .option('--append <text>', 'added to the kernel command line of an image with a kernel')
    .option('--machine <type>', 'versioned machine type that all sites know (default: pc-i440fx-7.2)')
    .option('--cpu <model>', 'CPU model that all sites support (default: qemu64,+rdrand)');
}

/** The same as a request of the API has it. */
export function machineOf(
  options: MachineOptions,
): Pick<CreateVm, 'memoryMiB' | 'cpus' | 'append' | 'machineType' | 'cpuModel'> {
  const { memory, cpus, append, machine, cpu } = options;
  return {
    ...(memory === undefined ? {} : { memoryMiB: memory }),
    ...(cpus === undefined ? {} : { cpus }),
    ...(append === undefined ? {} : { append }),
    ...(machine === undefined ? {} : { machineType: machine }),
    ...(cpu === undefined ? {} : { cpuModel: cpu }),
  };
}
