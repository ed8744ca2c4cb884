import { createHash } from 'node:crypto';
import { copyFile, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { errorCode } from '../../src/base/errors.ts';
import type { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { parseMachineSpec } from '../../src/qemu/machine-spec.ts';
import { QemuProcess, type QemuStartOptions } from '../../src/qemu/process.ts';
import { loadDeviceState, saveDeviceState } from '../../src/qemu/saved-state.ts';
import { builtGuest, connectSerial } from '../content/launcher.ts';
import { migrateDirect } from '../kit/qemu-migrate.ts';
import { createQcow2, startQemu, TEST_QEMU, testPaths, testSpec } from '../kit/qemu.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

let dir: TempDir;
beforeEach(async () => {
  dir = await tempDir();
});
afterEach(() => dir[Symbol.asyncDispose]());

const sha256 = async (path: string): Promise<string> =>
  createHash('sha256')
    .update(await readFile(path))
    .digest('hex');

async function startGuest(
  name: string,
  overlayPath: string,
  change: Pick<QemuStartOptions, 'memoryFile' | 'incoming'>,
): Promise<QemuProcess> {
  const { manifest, diskPath, kernelPath, initrdPath } = await builtGuest('ci');
  const base = { path: diskPath, format: manifest.disk.format };
  const diskBytes = manifest.disk.virtualSizeBytes;
  if (name === 'first') await createQcow2(overlayPath, diskBytes, base);
  const { logPath, ...paths } = testPaths(dir, name);
  return QemuProcess.start({
    spec: parseMachineSpec({
      ...testSpec({ memoryMiB: manifest.defaults.memoryMiB, diskBytes, serialPorts: 2 }),
      directBoot: { kernel: 'kernel', initrd: 'initrd', commandLine: manifest.commandLine },
    }),
    name,
    program: TEST_QEMU,
    accelerator: 'tcg',
    paths: { ...paths, serial1Socket: serial(name), kernel: kernelPath, initrd: initrdPath },
    logPath,
    disk: { mode: 'normal', base, overlayPath },
    ...change,
  });
}

const serial = (name: string): string => dir.file(`${name}/serial1.sock`);

async function workload(name: string): Promise<WorkloadClient> {
  const client = await connectSerial(serial(name));
  await client.ready();
  return client;
}

interface Frozen {
  readonly overlay: string;
  readonly ram: string;
  readonly devices: string;
}

/** Boots a guest and leaves its disk, its memory, and the rest in three files. */
async function freeze(): Promise<Frozen> {
  const [overlay, ram, devices] = ['overlay', 'ram', 'devices'].map((name) => dir.file(name)) as [
    string,
    string,
    string,
  ];
  await using vm = await startGuest('first', overlay, { memoryFile: { path: ram, shared: true } });
  {
    using work = await workload('first');
    await work.command('start disk=20 mem=200');
  }
  await saveDeviceState(vm.qmp, { socketPath: dir.file('first/state.sock'), filePath: devices });
  expect((await vm.qmp.queryStatus()).status).toBe('postmigrate');
  return { overlay, ram, devices };
}

/** One more guest of these files, stopped; its disk is a copy. */
async function goOn(name: string, files: Frozen): Promise<QemuProcess> {
  await copyFile(files.overlay, dir.file(`${name}.qcow2`));
  const vm = await startGuest(name, dir.file(`${name}.qcow2`), {
    memoryFile: { path: files.ram, shared: false },
    incoming: true,
  });
  try {
    await loadDeviceState(vm.qmp, {
      socketPath: dir.file(`${name}/state.sock`),
      filePath: files.devices,
    });
    return vm;
  } catch (error) {
    await vm.kill();
    throw error;
  }
}

test('a guest goes on from its files as often as one likes, and leaves by post-copy and comes back', async () => {
  const files = await freeze();
  expect((await stat(files.devices)).size).toBeLessThan(8 * 1024 ** 2);
  const before = await sha256(files.ram);

  await using a = await goOn('a', files);
  await using b = await goOn('b', files);
  await Promise.all([a.qmp.cont(), b.qmp.cont()]);
  for (const name of ['a', 'b']) {
    using work = await workload(name);
    expect((await work.command('verify')).line, name).toMatch(
      /^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/,
    );
  }
  expect((await a.qmp.queryMigrateCapabilities()).get('x-ignore-shared')).toBe(false);

  await using away = await startGuest('away', dir.file('a.qcow2'), { incoming: true });
  const there = await migrateDirect(a, away);
  expect(there.statuses).toContain('postcopy-active');
  await using home = await startGuest('home', dir.file('a.qcow2'), { incoming: true });
  const back = await migrateDirect(away, home);
  expect(back.statuses).toContain('postcopy-active');
  using work = await workload('home');
  expect((await work.command('verify')).line).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
  expect(await sha256(files.ram)).toBe(before);
});

test('a state that is cut off, one that is none, and memory of another length', async () => {
  const files = await freeze();
  const { size } = await stat(files.devices);
  await truncate(files.devices, size >> 1);
  expect(await goOn('cut', files).catch(errorCode)).toBe('QEMU_STATE_NOT_LOADED');
  await writeFile(files.devices, 'this is no state of a virtual machine');
  expect(await goOn('none', files).catch(errorCode)).toBe('QEMU_STATE_NOT_LOADED');
  await truncate(files.ram, 4096);
  expect(await goOn('short', files).catch(errorCode)).toBe('QEMU_START_FAILED');
});

test('a state that cannot be written', async () => {
  await using vm = await startQemu(dir, { memoryFile: { path: dir.file('ram'), shared: true } });
  const options = { socketPath: dir.file('vm/state.sock'), filePath: dir.file('nowhere/devices') };
  expect(await saveDeviceState(vm.qmp, options).catch(errorCode)).toBe('QEMU_STATE_NOT_SAVED');
  expect((await vm.qmp.queryStatus()).running).toBe(false);
});
