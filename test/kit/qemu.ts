import { randomUUID } from 'node:crypto';
import { run } from '../../src/base/process.ts';
import type { QemuPaths } from '../../src/qemu/command-line.ts';
import { type MachineSpec, type MachineSpecInput, parseMachineSpec } from '../../src/qemu/machine-spec.ts';
import { QEMU_PROGRAM, QemuProcess, type QemuStartOptions } from '../../src/qemu/process.ts';
import type { TempDir } from './tempdir.ts';

/** Another QEMU to test with, e.g. a newer one: a program, or a script that ends in `exec`. */
export const TEST_QEMU = process.env.CLOUDAP_TEST_QEMU ?? QEMU_PROGRAM;

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
    program: TEST_QEMU,
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

/** One pattern of bytes at one place of a disk. */
export interface Pattern {
  readonly byte: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

const writeCommand = ({ byte, offsetBytes, lengthBytes }: Pattern): string =>
  `write -P ${byte} ${offsetBytes} ${lengthBytes}`;

/** Writes to an image that no QEMU has open. */
export async function writeImage(
  path: string,
  format: 'raw' | 'qcow2',
  patterns: readonly Pattern[],
): Promise<void> {
  const commands = patterns.flatMap((p) => ['-c', writeCommand(p)]);
  await run('qemu-io', ['-f', format, ...commands, path]);
}

/** Writes as the guest of a running QEMU would: through its disk. */
export async function writeAsGuest(vm: QemuProcess, pattern: Pattern): Promise<void> {
  const command = `qemu-io -d /machine/peripheral/disk0/virtio-backend "${writeCommand(pattern)}"`;
  const said = await vm.qmp.execute('human-monitor-command', { 'command-line': command });
  if (typeof said === 'string' && said.trim() !== '') throw new Error(said);
}
