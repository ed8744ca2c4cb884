import { expect, it } from 'vitest';
import { parseCpus, parseMachines, parseVersion } from './qemu-facts.ts';

it('reads what QEMU says of itself', () => {
  expect(parseVersion('QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright')).toBe('7.2.22');
  expect(() => parseVersion('hello')).toThrow(expect.objectContaining({ code: 'VM_START_FAILED' }));
});

it('reads the lists of machines and CPU models, and nothing else in them', () => {
  const machines = parseMachines(`Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)
none                 empty machine
`);
  expect([...machines]).toEqual(['microvm', 'pc', 'pc-i440fx-7.2', 'none']);
  const cpus = parseCpus(`Available CPUs:
x86 486                   (alias configured by machine type)
x86 qemu64                (alias configured by machine type)
x86 max                   Enables all features supported by the accelerator in the current host

Recognized CPUID flags:
  3dnow 3dnowext x86 avx
`);
  expect([...cpus]).toEqual(['486', 'qemu64', 'max']);
  const later = parseCpus(`Available CPUs:
  486                   (alias configured by machine type)
  max                   Enables all features supported by the accelerator in the current host

Recognized CPUID flags:
  3dnow 3dnowext x86 avx
`);
  expect([...later]).toEqual(['486', 'max']);
});
