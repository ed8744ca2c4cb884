import { randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readdir, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import type { NbdBackend } from '../../src/nbd/backend.ts';
import { FileBackend } from '../../src/nbd/file-backend.ts';
import { MemoryBackend } from '../../src/nbd/memory-backend.ts';
import { startNbdServer } from '../../src/nbd/server.ts';
import { tempDir } from '../kit/tempdir.ts';

const MIB = 1024 * 1024;
const uri = (path: string, name = '') => `nbd+unix:///${name}?socket=${path}`;

/** 8 MiB: random, a hole, random. */
async function writeSample(path: string): Promise<Buffer> {
  const data = Buffer.concat([randomBytes(3 * MIB), Buffer.alloc(2 * MIB), randomBytes(3 * MIB)]);
  await writeFile(path, data);
  return data;
}

describe("our server and other people's clients", () => {
  test('qemu-img reads, compares and converts', async () => {
    await using dir = await tempDir();
    await writeSample(dir.file('disk.raw'));
    using backend = new FileBackend(dir.file('disk.raw'), { readOnly: true });
    const path = dir.file('nbd.sock');
    await using _server = await startNbdServer({ listen: { path }, exports: [{ name: 'disk', backend }] });
    const info = await run('qemu-img', ['info', '--output=json', uri(path, 'disk')]);
    expect(JSON.parse(info.stdout)).toMatchObject({ format: 'raw', 'virtual-size': 8 * MIB });
    const same = ['compare', '-f', 'raw', '-F', 'raw'];
    await run('qemu-img', [...same, dir.file('disk.raw'), uri(path, 'disk')]);
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri(path, 'disk'), dir.file('copy.qcow2')]);
    await run('qemu-img', ['check', dir.file('copy.qcow2')]);
    await run('qemu-img', [
      'compare',
      '-f',
      'raw',
      '-F',
      'qcow2',
      dir.file('disk.raw'),
      dir.file('copy.qcow2'),
    ]);
  });

  test('qemu-img writes a qcow2 image through it, and finds it sound', async () => {
    await using dir = await tempDir();
    const data = await writeSample(dir.file('disk.raw'));
    await writeFile(dir.file('image'), '');
    await truncate(dir.file('image'), 16 * MIB);
    using backend = new FileBackend(dir.file('image'));
    const path = dir.file('nbd.sock');
    await using _server = await startNbdServer({ listen: { path }, exports: [{ name: '', backend }] });
    await run('qemu-img', ['create', '-f', 'qcow2', uri(path), '8M']);
    await run('qemu-img', ['convert', '-n', '-f', 'raw', '-O', 'qcow2', dir.file('disk.raw'), uri(path)]);
    const image = `json:{"driver":"qcow2","file":{"driver":"file","filename":"${dir.file('image')}"}}`;
    await run('qemu-img', ['check', image]);
    await run('qemu-img', ['convert', '-O', 'raw', image, dir.file('back.raw')]);
    expect((await readFile(dir.file('back.raw'))).equals(data)).toBe(true);
  });

  test('qemu-io writes, zeroes, discards, flushes and verifies patterns', async () => {
    await using dir = await tempDir();
    const bytes = Buffer.alloc(4 * MIB, 0xee);
    const path = dir.file('nbd.sock');
    const exports = [{ name: '', backend: new MemoryBackend(bytes) }];
    await using _server = await startNbdServer({ listen: { path }, exports });
    const commands = [
      'write -P 0x11 0 64k',
      'write -f -P 0x22 65536 512',
      'write -P 0x33 1000001 3',
      'write -z 128k 64k',
      'write -z -u 192k 64k',
      'discard 256k 64k',
      'flush',
      'aio_write -P 0x44 1M 1M',
      'aio_write -P 0x55 2M 1M',
      'aio_flush',
      'read -P 0x11 0 64k',
      'read -P 0x22 65536 512',
      'read -P 0x33 1000001 3',
      'read -P 0 128k 128k',
      'read -P 0x44 1M 1M',
      'read -P 0x55 2M 1M',
      'read -P 0xee 3M 1M',
    ];
    const args = commands.flatMap((c) => ['-c', c]);
    const { stdout } = await run('qemu-io', ['-f', 'raw', ...args, uri(path)]);
    expect(stdout).not.toMatch(/verification failed|error/i);
    expect(bytes[2 * MIB]).toBe(0x55);
  });

  test('a read-only export refuses to be opened for writing', async () => {
    await using dir = await tempDir();
    const backend = new MemoryBackend(Buffer.alloc(MIB, 7), { readOnly: true });
    const path = dir.file('nbd.sock');
    await using _server = await startNbdServer({ listen: { path }, exports: [{ name: '', backend }] });
    const write = run('qemu-io', ['-f', 'raw', '-c', 'write 0 512', uri(path)]);
    await expect(write).rejects.toMatchObject({ code: 'PROGRAM_FAILED' });
    await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 7 0 512', uri(path)]);
  });

  test('nbdinfo lists exports, sizes, flags and the allocation map', async () => {
    await using dir = await tempDir();
    const bytes = Buffer.concat([Buffer.alloc(MIB, 1), Buffer.alloc(MIB), Buffer.alloc(MIB, 2)]);
    const exports = [
      { name: 'disk', description: 'a disk', backend: new MemoryBackend(bytes) },
      { name: 'small', backend: new MemoryBackend(Buffer.alloc(1000), { readOnly: true }) },
    ];
    const path = dir.file('nbd.sock');
    await using _server = await startNbdServer({ listen: { path }, exports });
    const list = JSON.parse((await run('nbdinfo', ['--json', '--list', uri(path)])).stdout);
    expect(list).toMatchObject({
      protocol: 'newstyle-fixed',
      structured: true,
      exports: [
        {
          'export-name': 'disk',
          description: 'a disk',
          'export-size': 3 * MIB,
          is_read_only: false,
          can_trim: true,
          can_zero: true,
          can_flush: true,
          can_fua: true,
          can_df: true,
          can_multi_conn: true,
          block_size_minimum: 1,
          block_size_preferred: 4096,
          block_size_maximum: 32 * MIB,
          contexts: ['base:allocation'],
        },
        { 'export-name': 'small', 'export-size': 1000, is_read_only: true },
      ],
    });
    const map = JSON.parse((await run('nbdinfo', ['--json', '--map', uri(path, 'disk')])).stdout);
    expect(map).toMatchObject([
      { offset: 0, length: MIB, type: 0 },
      { offset: MIB, length: MIB, type: 2 },
      { offset: 2 * MIB, length: MIB, type: 0 },
    ]);
  });

  test('nbdcopy over several connections, there and back', async () => {
    await using dir = await tempDir();
    const data = await writeSample(dir.file('disk.raw'));
    const target = Buffer.alloc(data.length, 0xff);
    const exports = [
      { name: 'from', backend: new MemoryBackend(data, { readOnly: true }) },
      { name: 'to', backend: new MemoryBackend(target) },
    ];
    const path = dir.file('nbd.sock');
    await using _server = await startNbdServer({ listen: { path }, exports });
    await run('nbdcopy', ['--connections=4', '--flush', uri(path, 'from'), uri(path, 'to')]);
    expect(target.equals(data)).toBe(true);
    await run('nbdcopy', [uri(path, 'to'), dir.file('out.raw')]);
    expect((await readFile(dir.file('out.raw'))).equals(data)).toBe(true);
  });

  test('QEMU reads on while one read hangs, and gets the hanging one later', async () => {
    await using dir = await tempDir();
    const seen: number[] = [];
    let release: (() => void) | undefined;
    const backend: NbdBackend = {
      sizeBytes: MIB,
      readOnly: true,
      read: (offset, n) => {
        seen.push(offset);
        // qemu-io sends this one when it has the answer to the one before
        if (offset === 4096) release?.();
        if (offset !== 512 * 1024) return Buffer.alloc(n, 1);
        return new Promise((resolve) => {
          release = () => resolve(Buffer.alloc(n, 2));
        });
      },
    };
    const path = dir.file('nbd.sock');
    await using _server = await startNbdServer({ listen: { path }, exports: [{ name: '', backend }] });
    const commands = ['aio_read -P 2 512k 512', 'read -P 1 0 512', 'read -P 1 4096 512', 'aio_flush'];
    const args = commands.flatMap((c) => ['-c', c]);
    const { stdout } = await run('qemu-io', ['-r', '-f', 'raw', ...args, uri(path)]);
    expect(stdout).not.toMatch(/failed/);
    expect(stdout.match(/read 512\/512 bytes/g)).toHaveLength(3);
    expect(seen).toEqual([512 * 1024, 0, 4096]);
  });

  test('a client killed in mid-request leaves nothing behind', async () => {
    await using dir = await tempDir();
    let signal: AbortSignal | undefined;
    const backend: NbdBackend = {
      sizeBytes: MIB,
      readOnly: true,
      read: (offset, n, s) => {
        if (offset !== 512 * 1024) return Buffer.alloc(n, 1);
        signal = s;
        return new Promise((_, reject) => {
          s.addEventListener('abort', () => reject(s.reason as Error));
        });
      },
    };
    const path = dir.file('nbd.sock');
    const server = await startNbdServer({ listen: { path }, exports: [{ name: '', backend }] });
    const io = spawn('qemu-io', ['-r', '-f', 'raw', '-c', 'read 512k 512', uri(path)], { stdio: 'ignore' });
    const exited = once(io, 'exit');
    while (server.inFlightRequests === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    io.kill('SIGKILL');
    await exited;
    while (server.connectionCount > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(signal?.aborted).toBe(true);
    await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read -P 1 0 512', uri(path)]);
    await server.close();
    expect(await readdir(dir.path)).toEqual([]);
  });
});
