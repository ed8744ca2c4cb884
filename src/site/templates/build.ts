import { mkdir, rm } from 'node:fs/promises';
import { checkTemplateName, type Template, type TemplateFiles } from '../../content/templates/store.ts';
import { fail } from '../../content/templates/errors.ts';
import type { BuildTemplate, BuildView } from '../api/template-messages.ts';
import { DISK_RESERVE_BYTES } from '../constants.ts';
import { newVmId } from '../ids.ts';
import { writeJson } from '../json-file.ts';
import { type SitePaths, vmPaths } from '../paths.ts';
import type { BaseImage, SiteBackends } from '../ports.ts';
import { defineVm } from '../vm/define.ts';
import type { VmDefinition } from '../vm/definition.ts';
import { backingOf } from '../vm/disk-backend.ts';
import type { VmManager } from '../vm/manager.ts';
import type { StoredVm } from '../vm/store.ts';
import { copyVm } from './copy.ts';
import { end } from './end-qemu.ts';
import { checkSigns, waitUntilReady } from './ready.ts';

export interface BuildContext {
  readonly paths: SitePaths;
  readonly backends: SiteBackends;
  readonly vms: VmManager;
}

const MIB = 1024 * 1024;

/** What a build is going to do, checked before anything is made. */
export interface BuildPlan {
  readonly request: BuildTemplate;
  readonly image: BaseImage;
  readonly definition: VmDefinition;
  /** What is copied, instead of booting one. */
  readonly vm: StoredVm | undefined;
}

/** What changes in the build's view. */
export type OnBuild = (change: Partial<Pick<BuildView, 'state' | 'stoodStillMs'>>) => void;

/** @throws IMAGE_*, QEMU_SPEC_INVALID, TEMPLATE_NOT_READY, TEMPLATE_STORE, VM_CAPACITY, VM_UNKNOWN, VM_NOT_RUNNING */
export async function planBuild(
  { paths, backends, vms }: BuildContext,
  request: BuildTemplate,
): Promise<BuildPlan> {
  checkTemplateName(request.name);
  const vm = request.vm === undefined ? undefined : vms.store.get(request.vm);
  if (vm) vms.runningQemu(vm);
  const image = await backends.images.get(vm?.definition.image ?? request.image ?? '');
  if (!vm) checkSigns(image.guest, request.afterS);
  const definition = vm
    ? { ...vm.definition, id: newVmId() }
    : defineVm('template', image, request, vms.facts.accelerator);
  // memory in a file that cannot grow ends its QEMU by a signal: better not to begin
  const neededBytes = definition.machine.memoryMiB * MIB + DISK_RESERVE_BYTES;
  const freeBytes = await backends.disks.freeBytes(paths.dataDir);
  if (freeBytes < neededBytes) {
    const text = `${Math.ceil(neededBytes / MIB)} MiB needed, ${Math.floor(freeBytes / MIB)} MiB free`;
    throw fail('TEMPLATE_STORE', text, { fields: { neededBytes, freeBytes } });
  }
  vms.reserveMemory(definition)[Symbol.dispose]();
  return { request, image, definition, vm };
}

/**
 * Boots a VM whose memory is a file, waits until it is ready, and keeps what it is at that moment as a template; or keeps a
 * copy of a VM that runs.
 * Whatever fails leaves nothing. @throws TEMPLATE_*, VM_CAPACITY, QEMU_*
 */
export async function buildTemplate(
  context: BuildContext,
  plan: BuildPlan,
  onChange: OnBuild,
  signal: AbortSignal,
): Promise<Template> {
  const { backends, vms, paths } = context;
  const { image, definition, request } = plan;
  const files = backends.templates.newFiles();
  const sockets = paths.templateSockets;
  try {
    {
      using _memory = vms.reserveMemory(definition);
      await mkdir(files.folder, { mode: 0o700 });
      await (plan.vm ? copyVm : freeze)(context, plan, files, onChange, signal);
    }
    onChange({ state: 'hashing' });
    const { accelerator } = definition;
    const { uuid: _uuid, ...machine } = definition.machine;
    return await backends.templates.add(
      { name: request.name, image: image.digest, machine, accelerator, qemuVersion: vms.facts.version },
      files,
      signal,
    );
  } finally {
    await rm(files.folder, { recursive: true, force: true });
    await rm(sockets, { recursive: true, force: true });
  }
}

/** The three files of the template, made by a VM that is gone afterwards. */
async function freeze(
  { backends, paths }: BuildContext,
  { image, definition, request }: BuildPlan,
  files: TemplateFiles,
  onChange: OnBuild,
  signal: AbortSignal,
): Promise<void> {
  const vm = { ...vmPaths(files.folder, paths.templateSockets), overlay: files.overlayPath };
  await backends.disks.createQcow2(vm.overlay, image.virtualBytes, backingOf(vm.overlay, image));
  signal.throwIfAborted();
  const memoryFile = { path: files.ramPath, shared: true };
  const qemu = await backends.qemu.start({ definition, paths: vm, image, memoryFile });
  try {
    await writeJson(files.qemuFile, qemu.identity);
    onChange({ state: 'booting' });
    await waitUntilReady(qemu, vm, image.guest, request.afterS, signal);
    onChange({ state: 'saving' });
    await qemu.saveDevices(files.devicesPath, signal);
    await end(qemu, 'quit');
  } catch (error) {
    await end(qemu, 'kill');
    throw error;
  }
}
