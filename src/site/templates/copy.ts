import { join } from 'node:path';
import type { TemplateFiles } from '../../content/templates/store.ts';
import { failVm } from '../errors.ts';
import { writeJson } from '../json-file.ts';
import { vmPaths } from '../paths.ts';
import { backingOf } from '../vm/disk-backend.ts';
import type { BuildContext, BuildPlan, OnBuild } from './build.ts';
import { end } from './end-qemu.ts';

/** Of the QEMU that takes the copy: it never looks into its disk, which is removed with it. */
const EMPTY_DISK = 'empty.qcow2';

/**
 * The three files of a template from a VM that runs: its state goes to a second QEMU whose memory is the file, as in a
 * migration, and its overlay is copied at the end of that, while the VM stands still. Then it goes on.
 * @throws VM_BUSY, VM_NOT_RUNNING, QEMU_*
 */
export async function copyVm(
  { backends, paths, vms }: BuildContext,
  { image, definition, vm }: BuildPlan,
  files: TemplateFiles,
  onChange: OnBuild,
  signal: AbortSignal,
): Promise<void> {
  if (!vm) throw failVm('VM_UNKNOWN', definition.name);
  const release = vms.store.occupy(vm, 'is being made a template');
  try {
    const source = vms.runningQemu(vm);
    const own = { ...vmPaths(files.folder, paths.templateSockets), overlay: join(files.folder, EMPTY_DISK) };
    await backends.disks.createQcow2(own.overlay, image.virtualBytes, backingOf(own.overlay, image));
    signal.throwIfAborted();
    const memoryFile = { path: files.ramPath, shared: true };
    const qemu = await backends.qemu.start({ definition, paths: own, image, memoryFile, waiting: true });
    try {
      await writeJson(files.qemuFile, qemu.identity);
      onChange({ state: 'saving' });
      const whileStopped = (): Promise<void> => backends.disks.copy(vm.paths.overlay, files.overlayPath);
      onChange({ stoodStillMs: await source.copyTo(qemu, whileStopped, signal) });
      await backends.disks.setBacking(files.overlayPath, backingOf(files.overlayPath, image));
      await qemu.saveDevices(files.devicesPath, signal);
      await end(qemu, 'quit');
    } catch (error) {
      await end(qemu, 'kill');
      throw error;
    }
  } finally {
    release();
  }
}
