import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import { connectNbd, listNbdExports } from '../../src/nbd/connect.ts';
import { ALLOCATION, CONTEXT_ALLOCATION_DEPTH, DIRTY } from '../../src/wire/nbd/constants.ts';
import { startQemuNbd } from '../kit/qemuNbd.ts';
import { tempDir } from '../kit/tempdir.ts';

const MIB = 1024 * 1024;
const CLUSTER = 65_536;

describe('our client and qemu-nbd', () => {
  test.each([true, false])('reads and writes a raw file, structured: %s', async (structuredReplies) => {
    await using dir = await tempDir();
    const data = randomBytes(8 * MIB);
    await writeFile(dir.file('disk.raw'), data);
    await using peer = await startQemuNbd(dir.file('q.sock'), [
      '-f',
      'raw',
      '-x',
      'disk',
      '-D',
      'text',
      dir.file('disk.raw'),
    ]);
    expect(await listNbdExports(peer)).toEqual([{ name: 'disk', description: 'text' }]);
    await expect(connectNbd(peer, { exportName: 'other' })).rejects.toMatchObject({
      code: 'NBD_EXPORT_UNKNOWN',
    });
    {
      await using client = await connectNbd(peer, { exportName: 'disk', structuredReplies });
      expect(client.export).toMatchObject({ sizeBytes: 8 * MIB, description: 'text', structuredReplies });
      const offsets = Array.from({ length: 500 }, (_, i) => (i * 7919 * 512) % (8 * MIB - 40_000));
      const reads = await Promise.all(offsets.map((offset) => client.read(offset, 40_000)));
      const wrong = reads.findIndex(
        (read, i) => !read.equals(data.subarray(offsets[i], (offsets[i] ?? 0) + 40_000)),
      );
      expect(wrong).toBe(-1);
      expect((await client.read(0, 8 * MIB)).equals(data)).toBe(true);
      const piece = randomBytes(3 * MIB);
      piece.copy(data, 12_345);
      await client.write(12_345, piece, { fua: true });
      data.fill(0, MIB, MIB + 5000);
      await client.writeZeroes(MIB, 5000, { noHole: true });
      await client.flush();
      expect((await client.read(0, 8 * MIB)).equals(data)).toBe(true);
      await client.trim(4 * MIB, MIB);
    }
    const file = await readFile(dir.file('disk.raw'));
    expect(file.subarray(0, 4 * MIB).equals(data.subarray(0, 4 * MIB))).toBe(true);
  });

  test('sees which clusters an overlay holds, and which its backing file', async () => {
    await using dir = await tempDir();
    const [base, overlay] = [dir.file('base.qcow2'), dir.file('overlay.qcow2')];
    await run('qemu-img', ['create', '-f', 'qcow2', base, '16M']);
    await run('qemu-io', ['-c', 'write -P 1 0 1M', base]);
    await run('qemu-img', ['create', '-f', 'qcow2', '-b', base, '-F', 'qcow2', overlay]);
    await run('qemu-io', ['-c', 'write -P 2 128k 64k', '-c', 'write -P 3 5M 64k', overlay]);
    await using peer = await startQemuNbd(dir.file('q.sock'), ['-r', '-A', '-f', 'qcow2', overlay]);
    const contexts = [CONTEXT_ALLOCATION_DEPTH, 'base:allocation'];
    await using client = await connectNbd(peer, { metaContexts: contexts });
    const depth = await client.blockStatus(CONTEXT_ALLOCATION_DEPTH, 0, 16 * MIB);
    expect(depth).toEqual([
      { offset: 0, lengthBytes: 2 * CLUSTER, flags: 2 },
      { offset: 2 * CLUSTER, lengthBytes: CLUSTER, flags: 1 },
      { offset: 3 * CLUSTER, lengthBytes: MIB - 3 * CLUSTER, flags: 2 },
      { offset: MIB, lengthBytes: 4 * MIB, flags: 0 },
      { offset: 5 * MIB, lengthBytes: CLUSTER, flags: 1 },
      { offset: 5 * MIB + CLUSTER, lengthBytes: 11 * MIB - CLUSTER, flags: 0 },
    ]);
    const allocation = await client.blockStatus('base:allocation', 512 * 1024, MIB);
    expect(allocation).toEqual([
      { offset: MIB / 2, lengthBytes: MIB / 2, flags: 0 },
      { offset: MIB, lengthBytes: MIB / 2, flags: ALLOCATION.HOLE | ALLOCATION.ZERO },
    ]);
    expect((await client.read(128 * 1024, 512)).equals(Buffer.alloc(512, 2))).toBe(true);
    // holes come as holes: a read across data, hole and data is put together
    const across = await client.read(5 * MIB - 1000, CLUSTER + 2000);
    expect(across.subarray(1000, 1000 + CLUSTER).every((b) => b === 3)).toBe(true);
    expect(across.subarray(0, 1000).every((b) => b === 0)).toBe(true);
    await expect(client.blockStatus('qemu:other', 0, 512)).rejects.toMatchObject({
      code: 'NBD_CONTEXT_UNKNOWN',
    });
  });

  test('sees a dirty bitmap', async () => {
    await using dir = await tempDir();
    const image = dir.file('disk.qcow2');
    await run('qemu-img', ['create', '-f', 'qcow2', image, '16M']);
    await run('qemu-img', ['bitmap', '--add', '-g', '64k', image, 'moves']);
    await run('qemu-io', ['-c', 'write 1M 100k', '-c', 'write 3M 1', image]);
    await using peer = await startQemuNbd(dir.file('q.sock'), ['-r', '-B', 'moves', '-f', 'qcow2', image]);
    const context = 'qemu:dirty-bitmap:moves';
    await using client = await connectNbd(peer, { metaContexts: [context] });
    const dirty = (await client.blockStatus(context, 0, 16 * MIB)).filter((e) => e.flags === DIRTY);
    expect(dirty).toEqual([
      { offset: MIB, lengthBytes: 2 * CLUSTER, flags: DIRTY },
      { offset: 3 * MIB, lengthBytes: CLUSTER, flags: DIRTY },
    ]);
    await expect(connectNbd(peer, { metaContexts: ['qemu:dirty-bitmap:other'] })).rejects.toMatchObject({
      code: 'NBD_CONTEXT_UNKNOWN',
    });
  });

  test('gets what a read-only server says to a write, and its own opinion before', async () => {
    await using dir = await tempDir();
    await writeFile(dir.file('disk.raw'), Buffer.alloc(MIB));
    await using peer = await startQemuNbd(dir.file('q.sock'), ['-r', '-f', 'raw', dir.file('disk.raw')]);
    await using client = await connectNbd(peer);
    expect(client.readOnly).toBe(true);
    await expect(client.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: 'NBD_UNSUPPORTED' });
  });

  test('a killed server ends every call with a code', async () => {
    await using dir = await tempDir();
    await writeFile(dir.file('disk.raw'), Buffer.alloc(64 * MIB));
    await using peer = await startQemuNbd(dir.file('q.sock'), ['-r', '-f', 'raw', dir.file('disk.raw')]);
    const client = await connectNbd(peer);
    const reads = Array.from({ length: 200 }, () => client.read(0, 16 * MIB));
    const outcomes = Promise.allSettled(reads);
    await reads[0];
    await peer.kill();
    const codes = (await outcomes).flatMap((o) =>
      o.status === 'rejected' ? [(o.reason as { code: string }).code] : [],
    );
    expect(new Set(codes)).toEqual(new Set(['NBD_CONNECTION_LOST']));
    await expect(client.read(0, 1)).rejects.toMatchObject({ code: 'NBD_CONNECTION_LOST' });
    await expect(connectNbd(peer)).rejects.toMatchObject({ code: 'NBD_CONNECT_FAILED' });
    await client.disconnect();
  });
});
