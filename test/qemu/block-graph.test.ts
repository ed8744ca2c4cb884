import { copyFile, stat, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import { commitTop, exportAllocation, pivotToLocal } from '../../src/qemu/block-graph.ts';
import { describeChain } from '../../src/qemu/block-chain.ts';
import type { BaseImage } from '../../src/qemu/block-nodes.ts';
import type { MachineSpec } from '../../src/qemu/machine-spec.ts';
import type { QemuProcess } from '../../src/qemu/process.ts';
import { migrateDirect } from '../kit/qemu-migrate.ts';
import { serveRaw } from '../kit/qemu-nbd.ts';
import { createQcow2, startQemu, testSpec, writeAsGuest, writeImage } from '../kit/qemu.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 48 * MIB;
const coded = (code: string) => expect.objectContaining({ code });

interface Bed {
  readonly dir: TempDir;
  readonly spec: MachineSpec;
  readonly base: BaseImage | undefined;
  /** Every write of the guest is done here too. */
  readonly expected: string;
}

async function bed(dir: TempDir, format: 'raw' | 'qcow2' | 'none'): Promise<Bed> {
  const spec = testSpec({ diskBytes: DISK_BYTES });
  const expected = dir.file('expected.raw');
  await run('qemu-img', ['create', '-q', '-f', 'raw', expected, String(DISK_BYTES)]);
  if (format === 'none') return { dir, spec, base: undefined, expected };
  const base: BaseImage = { path: dir.file(`base.${format}`), format };
  await run('qemu-img', ['create', '-q', '-f', format, base.path, String(DISK_BYTES)]);
  const content = { byte: 0x11, offsetBytes: 0, lengthBytes: 8 * MIB };
  await writeImage(base.path, format, [content]);
  await writeImage(expected, 'raw', [content]);
  return { dir, spec, base, expected };
}

async function guestWrites(bed: Bed, vm: QemuProcess, byte: number, offsetBytes: number): Promise<void> {
  const pattern = { byte, offsetBytes, lengthBytes: 4096 * 3 };
  await writeAsGuest(vm, pattern);
  await writeImage(bed.expected, 'raw', [pattern]);
}

/** A QEMU that has just taken over `source`'s guest: `top` over the source's overlay, read over NBD. */
async function arrive(bed: Bed, source: QemuProcess, overlay: string, name: string): Promise<QemuProcess> {
  const topPath = bed.dir.file(`${name}.top`);
  await createQcow2(topPath, DISK_BYTES);
  const target = await startQemu(bed.dir, {
    name,
    spec: bed.spec,
    disk: {
      mode: 'incoming',
      base: bed.base,
      overlay: { socketPath: bed.dir.file(`${overlay}.nbd`) },
      topPath,
    },
  });
  const { statuses } = await migrateDirect(source, target);
  expect(statuses).toContain('postcopy-active');
  await source.quit();
  return target;
}

/** The image as the guest sees it equals what was written, and qemu-img finds nothing wrong with it. */
async function verify(bed: Bed, overlay: string): Promise<void> {
  await run('qemu-img', ['check', '-q', overlay]);
  const file = (filename: string) => ({ driver: 'file', filename });
  const backing = bed.base ? { driver: bed.base.format, file: file(bed.base.path) } : null;
  const image = { driver: 'qcow2', file: file(overlay), backing };
  await run('qemu-img', ['compare', '-q', `json:${JSON.stringify(image)}`, bed.expected, '-F', 'raw']);
}

test.each(['raw', 'qcow2', 'none'] as const)(
  'two round trips: the same shape and the right bytes each time (base: %s)',
  async (format) => {
    await using dir = await tempDir();
    const b = await bed(dir, format);
    let overlay = dir.file('trip0');
    await createQcow2(overlay, DISK_BYTES);
    let vm = await startQemu(dir, {
      name: 'start',
      spec: b.spec,
      disk: { mode: 'normal', base: b.base, overlayPath: overlay },
    });
    try {
      const atHome = await describeChain(vm.qmp);
      expect(atHome).toMatchObject({ stage: 'home', loose: [] });
      for (let trip = 1; trip <= 4; trip++) {
        await guestWrites(b, vm, trip, trip * MIB + 512);
        await using _server = await serveRaw(overlay, `${overlay}.nbd`);
        vm = await arrive(b, vm, `trip${trip - 1}`, `vm${trip}`);
        expect(await describeChain(vm.qmp)).toMatchObject({ stage: 'arriving', loose: [] });
        await guestWrites(b, vm, 0x80 + trip, 20 * MIB + trip * 70_000);
        await expect(commitTop(vm.qmp)).rejects.toEqual(coded('QEMU_CHAIN_UNEXPECTED'));

        const local = dir.file(`trip${trip}`);
        await copyFile(overlay, local);
        const { reopenMs } = await pivotToLocal(vm.qmp, { localPath: local });
        expect(reopenMs).toBeGreaterThan(0);
        expect(await describeChain(vm.qmp)).toMatchObject({ stage: 'pivoted', loose: [] });
        expect(await pivotToLocal(vm.qmp, { localPath: local })).toEqual({ reopenMs: 0 });
        await guestWrites(b, vm, 0x40 + trip, 30 * MIB + trip * 70_000);
        await commitTop(vm.qmp);
        await commitTop(vm.qmp);

        const chain = await describeChain(vm.qmp);
        expect(chain.loose).toEqual([]);
        expect({ ...chain, nodes: chain.nodes.map((n) => ({ ...n, file: n.file?.name })) }).toEqual({
          ...atHome,
          nodes: atHome.nodes.map((n) => ({ ...n, file: n.file?.name })),
        });
        expect(chain.nodes[0]?.file?.filename).toBe(local);
        overlay = local;
      }
    } finally {
      await vm.quit();
    }
    await verify(b, overlay);
  },
);

test('steps that were interrupted are repeated', async () => {
  await using dir = await tempDir();
  const b = await bed(dir, 'raw');
  const overlay = dir.file('trip0');
  await createQcow2(overlay, DISK_BYTES);
  const disk = { mode: 'normal', base: b.base, overlayPath: overlay } as const;
  await using source = await startQemu(dir, { name: 'source', spec: b.spec, disk });
  await guestWrites(b, source, 7, 3 * MIB);
  await using _server = await serveRaw(overlay, `${overlay}.nbd`);
  await using vm = await arrive(b, source, 'trip0', 'target');
  await guestWrites(b, vm, 8, 5 * MIB);
  const local = dir.file('local');
  await copyFile(overlay, local);

  // Files that cannot be the overlay: the guest keeps reading over NBD.
  const rubbish = dir.file('rubbish');
  await writeFile(rubbish, Buffer.alloc(64 * 1024, 1));
  const other = dir.file('other');
  await createQcow2(other, DISK_BYTES * 2);
  for (const localPath of [rubbish, other, dir.file('missing')]) {
    await expect(pivotToLocal(vm.qmp, { localPath })).rejects.toEqual(coded('QEMU_OVERLAY_INVALID'));
  }
  expect(await describeChain(vm.qmp)).toMatchObject({ stage: 'arriving', loose: [] });
  // A mover died after blockdev-add.
  await vm.qmp.blockdevAdd({ driver: 'file', 'node-name': 'cow-file', filename: rubbish, 'read-only': true });
  expect((await describeChain(vm.qmp)).loose).toEqual(['cow-file']);
  await pivotToLocal(vm.qmp, { localPath: local });

  // One gives up while the commit runs; one dies while it runs.
  const slow = { speedBytesPerS: 1 };
  await guestWrites(b, vm, 9, 6 * MIB);
  await guestWrites(b, vm, 10, 7 * MIB);
  await expect(commitTop(vm.qmp, { ...slow, timeoutMs: 300 })).rejects.toEqual(coded('QMP_EVENT_TIMEOUT'));
  expect(await vm.qmp.queryBlockJobs()).toEqual([]);
  expect(await describeChain(vm.qmp)).toMatchObject({ stage: 'pivoted', loose: [] });
  await vm.qmp.blockCommit({ jobId: 'cloudap-commit', topNode: 'top', baseNode: 'cow' });
  await commitTop(vm.qmp);
  expect(await describeChain(vm.qmp)).toMatchObject({ stage: 'home', loose: [] });
  await vm.quit();
  await verify(b, local);
});

test('what the guest has written since it arrived is told by the allocation export', async () => {
  await using dir = await tempDir();
  const b = await bed(dir, 'raw');
  const overlay = dir.file('trip0');
  await createQcow2(overlay, DISK_BYTES);
  const disk = { mode: 'normal', base: b.base, overlayPath: overlay } as const;
  await using source = await startQemu(dir, { name: 'source', spec: b.spec, disk });
  await guestWrites(b, source, 7, 10 * MIB);
  await using _server = await serveRaw(overlay, `${overlay}.nbd`);
  await using vm = await arrive(b, source, 'trip0', 'target');
  await guestWrites(b, vm, 8, 12 * MIB);

  const socketPath = dir.file('alloc.sock');
  for (let round = 0; round < 2; round++) {
    const allocation = await exportAllocation(vm.qmp, { socketPath });
    expect((await stat(socketPath)).mode & 0o077).toBe(0);
    const image = {
      driver: 'nbd',
      export: allocation.exportName,
      'x-dirty-bitmap': 'qemu:allocation-depth',
      server: { type: 'unix', path: socketPath },
    };
    const { stdout } = await run('qemu-img', ['map', '--output=json', `json:${JSON.stringify(image)}`]);
    // QEMU's NBD client shows a depth of 1, in `top`, as no data; 0 and 2 as data (block/nbd.c).
    const extents = JSON.parse(stdout) as { start: number; length: number; data: boolean }[];
    expect(extents.filter((e) => !e.data)).toEqual([
      expect.objectContaining({ start: 12 * MIB, length: 64 * 1024 }),
    ]);
    // The second round finds the server that the first left running, as after a crash of the mover.
    if (round === 1) await allocation.remove();
  }
});
