import { expect, test } from 'vitest';
import {
  MAX_CPUS,
  MAX_DISK_BYTES,
  MAX_KERNEL_COMMAND_LINE_BYTES,
  MAX_MEMORY_MIB,
  MIN_MEMORY_MIB,
} from './constants.ts';
import { parseMachineSpec } from './machine-spec.ts';

const good = {
  machineType: 'pc-i440fx-7.2',
  cpuModel: 'qemu64',
  cpus: 1,
  memoryMiB: 128,
  diskBytes: 1024 ** 2,
  display: 'none',
  input: 'none',
  serialPorts: 1,
  uuid: '6f1d7a52-2a53-4a6c-8f0e-0b6f6a1a2b3c',
};
const commandLine = (length: number) => ({
  directBoot: { kernel: 'k', commandLine: 'x'.repeat(length) },
});

test.each<[string, object, object]>([
  ['CPUs', { cpus: MAX_CPUS }, { cpus: MAX_CPUS + 1 }],
  ['much memory', { memoryMiB: MAX_MEMORY_MIB }, { memoryMiB: MAX_MEMORY_MIB + 1 }],
  ['little memory', { memoryMiB: MIN_MEMORY_MIB }, { memoryMiB: MIN_MEMORY_MIB - 1 }],
  ['disk', { diskBytes: MAX_DISK_BYTES }, { diskBytes: MAX_DISK_BYTES + 512 }],
  [
    'kernel command line',
    commandLine(MAX_KERNEL_COMMAND_LINE_BYTES),
    commandLine(MAX_KERNEL_COMMAND_LINE_BYTES + 1),
  ],
])('a machine is described up to its limit: %s', (_, most, beyond) => {
  expect(() => parseMachineSpec({ ...good, ...most })).not.toThrow();
  expect(() => parseMachineSpec({ ...good, ...beyond })).toThrow(
    expect.objectContaining({ code: 'QEMU_SPEC_INVALID' }),
  );
});
