import { run } from '../../base/process.ts';
import { chooseAccelerator } from '../../qemu/accelerator.ts';
import { tryKvm } from '../../qemu/probe.ts';
import { QEMU_PROGRAM } from '../../qemu/process.ts';
import type { QemuFacts } from '../ports.ts';
import { failVm } from '../errors.ts';
import { QEMU_PROBE_TIMEOUT_MS } from '../constants.ts';

/** Asks the installed QEMU what it is and knows; done once, when the agent starts. @throws PROGRAM_MISSING, VM_START_FAILED */
export async function probeQemu(wanted: 'auto' | 'tcg' | 'kvm', program = QEMU_PROGRAM): Promise<QemuFacts> {
  const ask = async (...args: string[]): Promise<string> =>
    (await run(program, args, { timeoutMs: QEMU_PROBE_TIMEOUT_MS })).stdout;
  const [version, machines, cpus, choice] = await Promise.all([
    ask('--version'),
    ask('-machine', 'help'),
    ask('-cpu', 'help'),
    chooseAccelerator({ wanted, tryKvm: () => tryKvm() }),
  ]);
  return {
    version: parseVersion(version),
    accelerator: choice.accelerator,
    acceleratorReason: choice.reason,
    machineTypes: parseMachines(machines),
    cpuModels: parseCpus(cpus),
  };
}

export function parseVersion(text: string): string {
  const found = /version (\d+\.\d+\.\d+)/.exec(text)?.[1];
  if (found === undefined) throw failVm('VM_START_FAILED', `QEMU says of its version: ${text.slice(0, 80)}`);
  return found;
}

/** `pc-i440fx-7.2       Standard PC (i440FX + PIIX, 1996) (default)`, below a heading. */
export function parseMachines(text: string): Set<string> {
  return new Set([...text.matchAll(/^([a-z0-9][\w.-]*) {2,}\S/gm)].map((match) => match[1] ?? ''));
}

/** `x86 qemu64  (alias …)` below a heading, without the `x86` since QEMU 10; then, after an empty line, a list of flags. */
export function parseCpus(text: string): Set<string> {
  const [models = ''] = text.split('\n\n');
  return new Set([...models.matchAll(/^(?:x86| ) ([\w.-]+)/gm)].map((match) => match[1] ?? ''));
}
