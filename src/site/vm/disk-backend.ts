import { chmod, constants, copyFile, mkdtemp, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { run } from '../../base/process.ts';
import { inspectDisk } from '../../content/images/inspect.ts';
import { DISK_TOOL_TIMEOUT_MS, EMPTY_DISK_MAX_BYTES, EMPTY_DISKS_KEPT } from '../constants.ts';
import type { BaseImage, DiskBackend } from '../ports.ts';

const STAT_BLOCK_BYTES = 512;

/**
 * Empty qcow2 files by their virtual size: `qemu-img` makes the same bytes each time, and a migration needs two of them
 * before its target's QEMU can start.
 */
const empty = new Map<number, Buffer>();

async function rememberEmpty(path: string, virtualBytes: number): Promise<void> {
  if (empty.size >= EMPTY_DISKS_KEPT) return;
  const bytes = await readFile(path);
  if (bytes.length <= EMPTY_DISK_MAX_BYTES) empty.set(virtualBytes, bytes);
}

/** A VM with a disk of this size has been made here, and may leave and come home: nothing waits for that now. */
async function makeEmptyAhead(beside: string, virtualBytes: number): Promise<void> {
  if (empty.has(virtualBytes) || empty.size >= EMPTY_DISKS_KEPT) return;
  const folder = await mkdtemp(join(tmpdir(), 'cloudap-empty-'));
  try {
    await diskBackend.createQcow2(join(folder, basename(beside)), virtualBytes);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** `qemu-img` in processes of its own, and what the file system says. */
export const diskBackend: DiskBackend = {
  async createQcow2(path, virtualBytes, backing) {
    const known = backing ? undefined : empty.get(virtualBytes);
    if (known) return writeFile(path, known, { mode: 0o600, flag: 'wx' });
    const args = ['create', '-q', '-f', 'qcow2'];
    // -u: the size is given, so qemu-img need not open the base
    if (backing) args.push('-u', '-b', backing.path, '-F', backing.format);
    await run('qemu-img', [...args, path, String(virtualBytes)], { timeoutMs: DISK_TOOL_TIMEOUT_MS });
    await chmod(path, 0o600);
    if (backing) void makeEmptyAhead(path, virtualBytes).catch(() => {});
    else await rememberEmpty(path, virtualBytes);
  },
  async copy(from, to) {
    await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    await chmod(to, 0o600);
  },
  async setBacking(path, backing) {
    // mostly it is right, and a look costs less than a process; whatever is odd there is for qemu-img to judge
    const header = await inspectDisk(path, 'qcow2').catch(() => undefined);
    if (header?.backing === backing.path) return;
    const args = ['rebase', '-q', '-u', '-f', 'qcow2', '-b', backing.path, '-F', backing.format, path];
    await run('qemu-img', args, { timeoutMs: DISK_TOOL_TIMEOUT_MS });
  },
  async freeBytes(directory) {
    const { bavail, bsize } = await statfs(directory);
    return bavail * bsize;
  },
  async fileBytes(path) {
    const { blocks, size } = await stat(path);
    return { allocated: blocks * STAT_BLOCK_BYTES, length: size };
  },
};

/**
 * How an overlay names its base: relative, so that with the usual layout the same bytes are right at every site. QEMU
 * itself never follows it (it is told each node), but tools do.
 */
export function backingOf(overlay: string, image: BaseImage): { path: string; format: 'qcow2' | 'raw' } {
  return { path: relative(dirname(overlay), image.diskPath), format: image.format };
}
