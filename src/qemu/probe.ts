import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Accelerator } from './accelerator.ts';
import { optionText } from './command-line.ts';
import { fail } from './errors.ts';
import type { MachineSpec } from './machine-spec.ts';
import { QemuProcess } from './process.ts';

export interface ProbeOptions {
  readonly program?: string | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

/** Starts a QEMU without a guest, asks it, and ends it. @throws as `QemuProcess.start`, and what `ask` throws */
export async function probeQemu<T>(
  args: readonly string[],
  ask: (qemu: QemuProcess) => Promise<T>,
  options: ProbeOptions = {},
): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'cloudap-probe-'));
  const qmpSocket = join(dir, 'qmp.sock');
  const chardev = optionText('socket', { id: 'qmp', path: qmpSocket, server: true, wait: false });
  const base = ['-no-user-config', '-nodefaults', '-display', 'none', '-S', '-chardev', chardev];
  try {
    await using qemu = await QemuProcess.spawn({
      ...options,
      args: [...base, '-mon', 'chardev=qmp,mode=control', ...args],
      qmpSocket,
      logPath: join(dir, 'log'),
    });
    return await ask(qemu);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Rejects unless QEMU can make a machine with KVM, hardware CPU included; for `chooseAccelerator({ tryKvm })`. */
export async function tryKvm(options: ProbeOptions = {}): Promise<void> {
  await probeQemu(
    ['-machine', 'pc', '-accel', 'kvm', '-cpu', 'host', '-m', '16M'],
    async ({ qmp }) => {
      const { enabled } = await qmp.queryKvm();
      if (!enabled) throw fail('QEMU_KVM_UNUSABLE', 'QEMU runs, but not on KVM');
    },
    options,
  );
}

/**
 * Whether this site can run a machine of this kind, found out by making one (QEMU itself checks machine type, CPU
 * model and every CPU flag). To be asked at the target before a move.
 * @throws QEMU_MACHINE_UNSUPPORTED
 */
export async function checkMachine(
  spec: Pick<MachineSpec, 'machineType' | 'cpuModel' | 'cpus'>,
  accelerator: Accelerator,
  options: ProbeOptions = {},
): Promise<void> {
  const args = ['-machine', spec.machineType, '-accel', accelerator, '-cpu', `${spec.cpuModel},enforce`];
  try {
    await probeQemu([...args, '-smp', String(spec.cpus), '-m', '16M'], async () => {}, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    const why = error instanceof Error ? error.message : String(error);
    const fields = { machineType: spec.machineType, cpuModel: spec.cpuModel, accelerator };
    throw fail('QEMU_MACHINE_UNSUPPORTED', why, { cause: error, fields });
  }
}
