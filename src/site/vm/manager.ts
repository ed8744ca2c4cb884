import { rm } from 'node:fs/promises';
import type { Logger } from 'pino';
import { asCloudapError, errorCode } from '../../base/errors.ts';
import { withTimeout } from '../../base/async.ts';
import type { Template } from '../../content/templates/store.ts';
import { readOwnership, type Ownership } from '../../migration/ownership.ts';
import { processIdentitySchema } from '../../qemu/process-identity.ts';
import type { SiteConfig } from '../config.ts';
import { STOP_GRACE_MS } from '../constants.ts';
import { failVm } from '../errors.ts';
import { readJson, writeJson } from '../json-file.ts';
import type { VmPaths } from '../paths.ts';
import type { BaseImage, QemuFacts, QemuHandle, SiteBackends } from '../ports.ts';
import { requireUsable } from '../templates/usable.ts';
import { defineFromTemplate, defineVm, type MachineChoice } from './define.ts';
import { backingOf } from './disk-backend.ts';
import type { Problem, VmDefinition } from './definition.ts';
import type { StoredVm, VmStore } from './store.ts';

export interface VmManagerOptions {
  config: SiteConfig;
  backends: SiteBackends;
  facts: QemuFacts;
  store: VmStore;
  log: Logger;
  /** The VM has been removed for good. */
  onRemoved?: (vmId: string) => void;
}

/** The life of this site's VMs: who has a QEMU, and what may be done to whom. */
export class VmManager {
  readonly store: VmStore;
  readonly facts: QemuFacts;
  readonly #config: SiteConfig;
  readonly #backends: SiteBackends;
  readonly #log: Logger;
  readonly #onRemoved: (vmId: string) => void;
  readonly #running = new Map<string, QemuHandle>();
  /** Memory promised to VMs whose QEMU is not there yet, MiB by VM id. */
  readonly #reservedMiB = new Map<string, number>();
  readonly #starting = new Set<Promise<void>>();
  #ending = false;

  constructor(options: VmManagerOptions) {
    this.store = options.store;
    this.facts = options.facts;
    this.#config = options.config;
    this.#backends = options.backends;
    this.#log = options.log;
    this.#onRemoved = options.onRemoved ?? (() => {});
  }

  qemu(vm: StoredVm): QemuHandle | undefined {
    return this.#running.get(vm.definition.id);
  }

  /** @throws VM_NOT_RUNNING */
  runningQemu(vm: StoredVm): QemuHandle {
    const qemu = this.qemu(vm);
    if (!qemu) throw failVm('VM_NOT_RUNNING', vm.definition.name);
    return qemu;
  }

  /** Memory of the VMs that run or are about to, MiB. */
  memoryUsedMiB(): number {
    const running = this.store.list().filter((vm) => this.#running.has(vm.definition.id));
    const starting = [...this.#reservedMiB.entries()].filter(([id]) => !this.#running.has(id));
    return (
      running.reduce((sum, vm) => sum + vm.definition.machine.memoryMiB, 0) +
      starting.reduce((sum, [, memoryMiB]) => sum + memoryMiB, 0)
    );
  }

  async diskUsedBytes(): Promise<number> {
    const sizes = await Promise.all(
      this.store.list().flatMap(({ paths }) =>
        [paths.overlay, paths.top].map((file) =>
          this.#backends.disks.fileBytes(file).then(
            (bytes) => bytes.allocated,
            () => 0,
          ),
        ),
      ),
    );
    return sizes.reduce((sum, bytes) => sum + bytes, 0);
  }

  /** Holds memory for a VM until its QEMU counts by itself. @throws VM_CAPACITY */
  reserveMemory(definition: VmDefinition): Disposable {
    const { id, machine, name } = definition;
    const leftMiB = this.#config.capacity.memoryMiB - this.memoryUsedMiB();
    if (machine.memoryMiB > leftMiB) {
      throw failVm(
        'VM_CAPACITY',
        `${name} needs ${machine.memoryMiB} MiB of memory, ${Math.max(0, leftMiB)} MiB are left`,
        {
          fields: { neededMiB: machine.memoryMiB, leftMiB },
        },
      );
    }
    this.#reservedMiB.set(id, machine.memoryMiB);
    return { [Symbol.dispose]: () => void this.#reservedMiB.delete(id) };
  }

  /** A VM that is off, of an image; `id` is by default a new one. @throws VM_NAME_TAKEN, VM_CAPACITY, IMAGE_*, QEMU_SPEC_INVALID */
  async create(request: MachineChoice & { id?: string; name: string; image: string }): Promise<StoredVm> {
    this.#checkPlace(request.name);
    const image = await this.#backends.images.get(request.image);
    const definition = defineVm(request.name, image, request, this.facts.accelerator, request.id);
    return this.#store(definition, (paths) =>
      this.#backends.disks.createQcow2(paths.overlay, image.virtualBytes, backingOf(paths.overlay, image)),
    );
  }

  /**
   * A VM that goes on from a template: it runs when this returns. Whatever fails leaves nothing.
   * @throws VM_NAME_TAKEN, VM_CAPACITY, VM_START_FAILED, TEMPLATE_*
   */
  async createFromTemplate(name: string, reference: string, id?: string): Promise<StoredVm> {
    this.#checkPlace(name);
    const template = await this.#backends.templates.get(reference);
    const image = await requireUsable(template.manifest, this.facts, this.#backends.images);
    const definition = defineFromTemplate(name, template, id);
    const vm = await this.#store(definition, (paths) =>
      this.#backends.disks.copy(template.overlayPath, paths.overlay),
    );
    try {
      await this.#start(vm, image, template);
    } catch (error) {
      if (!this.qemu(vm)) await this.store.remove(vm);
      throw error;
    }
    return vm;
  }

  #checkPlace(name: string): void {
    const { vms } = this.#config.capacity;
    if (this.store.count >= vms) throw failVm('VM_CAPACITY', `${this.store.count} of ${vms} VMs`);
    if (this.store.nameTaken(name)) throw failVm('VM_NAME_TAKEN', name);
  }

  async #store(definition: VmDefinition, fill: (paths: VmPaths) => Promise<void>): Promise<StoredVm> {
    const ownership: Ownership = {
      version: 1,
      vmId: definition.id,
      owner: this.#config.id,
      generation: 1,
      state: 'owned',
      peer: null,
    };
    const vm = await this.store.create(definition, ownership, fill);
    const { id, name, image, template } = definition;
    this.#log.info({ vm: id, name, image, template }, 'VM created');
    return vm;
  }

  /** Boots a VM from its disk. @throws VM_RUNNING, VM_NOT_OWNED, VM_BUSY, VM_CAPACITY, VM_START_FAILED, IMAGE_UNKNOWN */
  async start(vm: StoredVm): Promise<void> {
    return this.#start(vm);
  }

  async #start(vm: StoredVm, known?: BaseImage, template?: Template): Promise<void> {
    const started = this.store.exclusive(vm, 'start', async () => {
      if (this.#ending) throw failVm('VM_START_FAILED', 'the agent is ending');
      const { definition, paths } = vm;
      if (this.qemu(vm)) throw failVm('VM_RUNNING', definition.name);
      await this.requireOwned(vm);
      const image = known ?? (await this.#backends.images.get(definition.image));
      using _memory = this.reserveMemory(definition);
      // a site with another imageDir than the VM's last one has its base elsewhere
      await this.#backends.disks.setBacking(paths.overlay, backingOf(paths.overlay, image));
      const request = { definition, paths, image, ...(template ? { template } : {}) };
      const qemu = await this.#backends.qemu.start(request).catch((error: unknown) => {
        throw failVm('VM_START_FAILED', asCloudapError(error).message, { cause: error });
      });
      await this.attach(vm, qemu);
      this.#log.info({ vm: definition.id, pid: qemu.identity.pid }, 'VM started');
    });
    this.#starting.add(started);
    await started.finally(() => this.#starting.delete(started));
  }

  /** This site owns the VM and no hand-over is under way. @throws VM_NOT_OWNED */
  async requireOwned(vm: StoredVm): Promise<Ownership> {
    const found = await readOwnership(vm.paths.ownershipFile);
    if (found.state !== 'owned' || found.owner !== this.#config.id) {
      throw failVm('VM_NOT_OWNED', `${vm.definition.name} is ${found.state} by ${found.owner}`, {
        fields: { ...found },
      });
    }
    return found;
  }

  /** Takes a QEMU under supervision and notes it, so that a restarted agent finds it. */
  async attach(vm: StoredVm, qemu: QemuHandle): Promise<void> {
    await writeJson(vm.paths.qemuFile, qemu.identity);
    this.#running.set(vm.definition.id, qemu);
    void qemu.exited
      .then(() => this.#ended(vm, qemu))
      .catch((error: unknown) => this.#log.error({ err: error }, 'QEMU ended'));
  }

  async #ended(vm: StoredVm, qemu: QemuHandle): Promise<void> {
    if (this.#running.get(vm.definition.id) !== qemu) return;
    this.#running.delete(vm.definition.id);
    this.#log.info({ vm: vm.definition.id, pid: qemu.identity.pid }, 'QEMU ended');
    await qemu.detach().catch(() => {});
    if (!this.store.has(vm.definition.id)) return;
    await rm(vm.paths.qemuFile, { force: true });
    await rm(vm.paths.socketDir, { recursive: true, force: true });
  }

  /** Waits until everything that follows the end of a QEMU is done. */
  async settleEnd(vm: StoredVm, qemu: QemuHandle): Promise<void> {
    await qemu.exited;
    await this.#ended(vm, qemu);
  }

  /** Presses the power button, then, after the grace time or at once if `force`, ends QEMU. @throws VM_NOT_RUNNING, VM_BUSY */
  async stop(vm: StoredVm, options: { force?: boolean; graceMs?: number } = {}): Promise<void> {
    await this.store.exclusive(vm, 'stop', async () => {
      const qemu = this.runningQemu(vm);
      if (vm.problem && !options.force)
        throw failVm('VM_DEGRADED', `${vm.definition.name}: ${vm.problem.message}`);
      const graceMs = options.force ? 0 : (options.graceMs ?? STOP_GRACE_MS);
      if (graceMs > 0 && (await this.#runState(qemu)) === 'running') {
        await qemu.powerdown().catch(() => {});
        await withTimeout(qemu.exited, graceMs, () => new Error('still running')).catch(() => {});
      }
      await qemu.quit();
      await this.settleEnd(vm, qemu);
    });
  }

  /** Removes a stopped VM for good. @throws VM_RUNNING, VM_NOT_OWNED, VM_BUSY */
  async remove(vm: StoredVm): Promise<void> {
    await this.store.exclusive(vm, 'remove', async () => {
      if (this.qemu(vm)) throw failVm('VM_RUNNING', vm.definition.name);
      await this.requireOwned(vm);
      await this.store.remove(vm);
    });
    this.#log.info({ vm: vm.definition.id }, 'VM removed');
    this.#onRemoved(vm.definition.id);
  }

  /** @throws VM_NOT_RUNNING, VM_NO_SCREEN */
  async screenshot(vm: StoredVm): Promise<Buffer> {
    const qemu = this.runningQemu(vm);
    if (vm.definition.machine.display === 'none') throw failVm('VM_NO_SCREEN', vm.definition.name);
    return qemu.screenshotPng();
  }

  /** QEMU's run state, or undefined where it does not say within a second: a listing never hangs on one VM. */
  async #runState(qemu: QemuHandle): Promise<string | undefined> {
    return withTimeout<string | undefined>(qemu.runState(), 1000, () => new Error('timeout')).catch(
      () => undefined,
    );
  }

  runState(vm: StoredVm): Promise<string | undefined> {
    const qemu = this.qemu(vm);
    return qemu ? this.#runState(qemu) : Promise.resolve(undefined);
  }

  async setProblem(vm: StoredVm, problem: Problem | undefined): Promise<void> {
    if (problem) this.#log.warn({ vm: vm.definition.id, code: problem.code }, problem.message);
    await this.store.setProblem(vm, problem);
  }

  /** After a restart: takes up the QEMUs that go on, and forgets those that ended meanwhile. */
  async adoptAll(): Promise<void> {
    await Promise.all(this.store.list().map((vm) => this.#adopt(vm)));
  }

  async #adopt(vm: StoredVm): Promise<void> {
    const { definition, paths } = vm;
    const identity = await readJson(paths.qemuFile, processIdentitySchema).catch(() => undefined);
    try {
      const qemu = identity && (await this.#backends.qemu.adopt(definition, paths, identity));
      if (qemu) {
        await this.attach(vm, qemu);
        this.#log.info({ vm: definition.id, pid: qemu.identity.pid }, 'QEMU adopted');
        return;
      }
    } catch (error) {
      if (errorCode(error) !== 'QEMU_NOT_OURS') {
        // it runs but does not answer: whoever removed its files now would lose a VM
        await this.setProblem(vm, asCloudapError(error).toJSON());
        return;
      }
    }
    await rm(paths.qemuFile, { force: true });
    await rm(paths.socketDir, { recursive: true, force: true });
  }

  /** Lets go of all QEMUs; they run on. */
  async detachAll(): Promise<void> {
    const all = [...this.#running.values()];
    this.#running.clear();
    await Promise.all(all.map((qemu) => qemu.detach().catch(() => {})));
  }

  /** Also those that are just being started: their caller may have gone, and nobody else would end them. */
  async stopAll(): Promise<void> {
    this.#ending = true;
    await Promise.allSettled(this.#starting);
    const running = this.store.list().filter((vm) => this.qemu(vm) && vm.busy === undefined);
    await Promise.all(
      running.map((vm) => this.stop(vm).catch((error: unknown) => this.#log.error({ err: error }, 'stop'))),
    );
  }
}
