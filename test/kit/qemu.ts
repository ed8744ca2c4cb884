import { randomUUID } from 'node:crypto';
import { run } from '../../src/base/process.ts';
import type { QemuPaths } from '../../src/qemu/command-line.ts';
import { type MachineSpec, type MachineSpecInput, parseMachineSpec } from '../../src/qemu/machine-spec.ts';
import { QemuProcess, type QemuStartOptions } from '../../src/qemu/process.ts';
import type { TempDir } from './tempdir.ts';

/** A small machine without a disk: SeaBIOS finds nothing to boot and idles. */
export function testSpec(changes: Partial<MachineSpecInput> = {}): MachineSpec {
  return parseMachineSpec({
    machineType: 'pc-i440fx-7.2',
    cpuModel: 'qemu64,+rdrand',
    cpus: 1,
    memoryMiB: 32,
    diskBytes: null,
    display: 'none',
    uuid: randomUUID(),
    ...changes,
  });
}

/** Paths of one VM in a test's directory; `name` keeps several apart. */
export function testPaths(dir: TempDir, name = 'vm'): QemuPaths & { logPath: string } {
  return {
    qmpSocket: dir.file(`${name}/qmp.sock`),
    moverSocket: dir.file(`${name}/mover.sock`),
    vncSocket: dir.file(`${name}/vnc.sock`),
    pidFile: dir.file(`${name}.pid`),
    serialLog: dir.file(`${name}.serial`),
    logPath: dir.file(`${name}.qemu`),
  };
}

/** A QEMU under TCG that ends with its scope: `await using vm = await startQemu(dir, { name: 'source' })`. */
export async function startQemu(
  dir: TempDir,
  options: Partial<Omit<QemuStartOptions, 'paths'>> & { name?: string; paths?: Partial<QemuPaths> } = {},
): Promise<QemuProcess> {
  const name = options.name ?? 'vm';
  const { logPath, ...paths } = testPaths(dir, name);
  return QemuProcess.start({
    spec: testSpec(),
    accelerator: 'tcg',
    tbSizeMiB: 16,
    logPath,
    ...options,
    name,
    paths: { ...paths, ...options.paths },
  });
}

/** A new, empty qcow2 image. */
export async function createQcow2(
  path: string,
  sizeBytes: number,
  backing?: { path: string; format: 'raw' | 'qcow2' },
): Promise<void> {
  const base = backing ? ['-b', backing.path, '-F', backing.format] : [];
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...base, path, String(sizeBytes)]);
}
