import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { chooseAccelerator } from '../../src/qemu/accelerator.ts';
import {
  checkAccelerator,
  checkDiskSpace,
  checkNode,
  checkQemu,
  checkQemuImg,
  checkRuntimeDir,
  checkUserfaultfd,
} from '../../src/qemu/doctor.ts';
import { checkMachine } from '../../src/qemu/probe.ts';
import { TEST_QEMU, testSpec } from '../kit/qemu.ts';
import { tempDir } from '../kit/tempdir.ts';

const coded = (code: string) => expect.objectContaining({ code });

test('this machine’s QEMU has what is needed', async () => {
  const checks = await checkQemu({ program: TEST_QEMU });
  expect(checks.filter((c) => !c.ok)).toEqual([]);
  expect(checks.map((c) => c.name)).toEqual(
    expect.arrayContaining(['qemu', 'feature postcopy-ram', 'feature blockdev-reopen', 'userfaultfd']),
  );
});

test('without QEMU the checks say so and what to do', async () => {
  const program = '/nonexistent/qemu';
  const checks = [
    ...(await checkQemu({ program })),
    await checkUserfaultfd({ program }),
    await checkQemuImg(program),
  ];
  for (const check of checks) {
    expect(check).toMatchObject({ ok: false, remedy: expect.stringContaining('apt-get install') });
  }
});

test('qemu-img, Node, space and paths', async () => {
  await using dir = await tempDir();
  expect(await checkQemuImg()).toMatchObject({ ok: true });
  expect(checkNode()).toMatchObject({ ok: true });
  expect(checkNode('20.20.2')).toMatchObject({ ok: false });
  expect(await checkDiskSpace(dir.path, 1)).toMatchObject({ ok: true });
  expect(await checkDiskSpace(dir.path, Number.MAX_SAFE_INTEGER)).toMatchObject({ ok: false });
  expect(await checkDiskSpace(dir.file('missing'), 1)).toMatchObject({ ok: false });
  expect(checkRuntimeDir('/run/cloudap', 60)).toMatchObject({ ok: true });
  expect(checkRuntimeDir(`/${'x'.repeat(80)}`, 60)).toMatchObject({ ok: false });
  expect(checkRuntimeDir('run', 1)).toMatchObject({ ok: false });
  expect(await checkAccelerator('tcg')).toMatchObject({ ok: true, detail: 'tcg: TCG was asked for' });
  expect(await checkAccelerator()).toMatchObject({ ok: true });
});

test('a site tells before a move which machines it cannot run', async () => {
  await checkMachine(testSpec(), 'tcg', { program: TEST_QEMU });
  const unknownType = checkMachine(testSpec({ machineType: 'pc-i440fx-99.0' }), 'tcg', {
    program: TEST_QEMU,
  });
  await expect(unknownType).rejects.toEqual(coded('QEMU_MACHINE_UNSUPPORTED'));
  // TCG has no TSC deadline timer; without `enforce` QEMU would only warn.
  const lackingFlag = checkMachine(testSpec({ cpuModel: 'qemu64,+tsc-deadline' }), 'tcg');
  await expect(lackingFlag).rejects.toEqual(coded('QEMU_MACHINE_UNSUPPORTED'));
});

describe('the choice of the accelerator', () => {
  async function machine(root: string, files: readonly string[]): Promise<string> {
    for (const file of files) {
      await mkdir(join(root, file, '..'), { recursive: true });
      await writeFile(join(root, file), '');
    }
    return root;
  }

  test.each([
    ['nothing there', [], 'tcg', 'no /dev/kvm'],
    ['a para-virtual KVM only', ['dev/kvm', 'sys/module/kvm_pvm'], 'tcg', 'neither kvm_intel nor kvm_amd'],
    ['Intel', ['dev/kvm', 'sys/module/kvm_intel'], 'kvm', 'hardware'],
    ['AMD', ['dev/kvm', 'sys/module/kvm_amd'], 'kvm', 'hardware'],
  ] as const)('%s', async (_, files, accelerator, reason) => {
    await using dir = await tempDir();
    const choice = await chooseAccelerator({ root: await machine(dir.path, files) });
    expect(choice).toEqual({ accelerator, reason: expect.stringContaining(reason) });
  });

  test('a trial that fails rules KVM out; force skips only the look at modules', async () => {
    await using dir = await tempDir();
    const root = await machine(dir.path, ['dev/kvm']);
    expect(await chooseAccelerator({ root, wanted: 'kvm' })).toMatchObject({ accelerator: 'kvm' });
    const tryKvm = () => Promise.reject(new Error('it hangs'));
    await expect(chooseAccelerator({ root, wanted: 'kvm', tryKvm })).rejects.toEqual(
      coded('QEMU_KVM_UNUSABLE'),
    );
    await machine(dir.path, ['sys/module/kvm_amd']);
    expect(await chooseAccelerator({ root, tryKvm })).toEqual({
      accelerator: 'tcg',
      reason: expect.stringContaining('it hangs'),
    });
    await using empty = await tempDir();
    await expect(chooseAccelerator({ root: empty.path, wanted: 'kvm' })).rejects.toEqual(
      coded('QEMU_KVM_UNUSABLE'),
    );
  });
});
