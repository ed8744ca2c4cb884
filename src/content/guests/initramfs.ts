import { readFile, writeFile } from 'node:fs/promises';
import { MAX_INITRAMFS_BYTES } from './constants.ts';
import { type CpioEntry, cpioArchive } from './cpio.ts';
import { fail } from './errors.ts';
import type { Kernel } from './kernel.ts';

const ELF_MAGIC = 0x7f454c46;
const PT_INTERP = 3;

/** True for an x86-64 ELF program that needs no loader and no libraries. */
export function isStaticElf(program: Buffer): boolean {
  if (program.length < 64 || program.readUInt32BE(0) !== ELF_MAGIC) return false;
  const tableAt = Number(program.readBigUInt64LE(32));
  const [entryBytes, count] = [program.readUInt16LE(54), program.readUInt16LE(56)];
  for (let i = 0; i < count; i++) {
    const at = tableAt + i * entryBytes;
    if (at + 4 > program.length) return false;
    if (program.readUInt32LE(at) === PT_INTERP) return false;
  }
  return true;
}

/** The busybox of the package busybox-static. @throws GUEST_TOOL */
export async function readBusybox(): Promise<Buffer> {
  for (const path of ['/bin/busybox', '/usr/bin/busybox']) {
    const program = await readFile(path).catch(() => undefined);
    if (program && isStaticElf(program)) return program;
  }
  throw fail('GUEST_TOOL', 'busybox-static');
}

/** Writes an uncompressed initial RAM disk: busybox, the modules with their order, `/init`, and `extra`. */
export async function writeInitramfs(
  path: string,
  parts: {
    busybox: Buffer;
    applets: readonly string[];
    kernel: Kernel;
    init: Buffer;
    extra?: readonly CpioEntry[];
  },
): Promise<void> {
  const order = parts.kernel.modules.map((module) => `${module.name}\n`).join('');
  const archive = cpioArchive([
    { kind: 'folder', path: 'dev' },
    { kind: 'device', path: 'dev/console', major: 5, minor: 1 },
    { kind: 'folder', path: 'proc' },
    { kind: 'folder', path: 'sys' },
    { kind: 'folder', path: 'root' },
    { kind: 'file', path: 'bin/busybox', data: parts.busybox, mode: 0o755 },
    ...parts.applets.map((name): CpioEntry => ({ kind: 'link', path: `bin/${name}`, target: 'busybox' })),
    { kind: 'file', path: 'init', data: parts.init, mode: 0o755 },
    { kind: 'file', path: 'modules/order', data: Buffer.from(order) },
    ...parts.kernel.modules.map(
      ({ name, data }): CpioEntry => ({ kind: 'file', path: `modules/${name}`, data }),
    ),
    ...(parts.extra ?? []),
  ]);
  if (archive.length > MAX_INITRAMFS_BYTES)
    throw fail('GUEST_STEP', `an initial RAM disk of ${archive.length} bytes`);
  await writeFile(path, archive);
}
