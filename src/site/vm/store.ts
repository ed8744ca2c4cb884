import { mkdir, readdir, rm } from 'node:fs/promises';
import { asCloudapError } from '../../base/errors.ts';
import { readOwnership, writeOwnership, type Ownership } from '../../migration/ownership.ts';
import { failVm } from '../errors.ts';
import { vmIdSchema } from '../ids.ts';
import { readJson, writeJson } from '../json-file.ts';
import type { SitePaths, VmPaths } from '../paths.ts';
import { problemFileSchema, vmDefinitionSchema, type Problem, type VmDefinition } from './definition.ts';

/** One VM of this site, as on disk. `busy` names the operation that has it now. */
export interface StoredVm {
  readonly definition: VmDefinition;
  readonly paths: VmPaths;
  problem: Problem | undefined;
  busy: string | undefined;
}

/**
 * The VMs of a site: a directory each, this index in memory. Ownership is always read from its file, because movers
 * change it too.
 */
export class VmStore {
  readonly #paths: SitePaths;
  readonly #vms = new Map<string, StoredVm>();
  /** Names promised to an operation that has not written its directory yet. */
  readonly #reservedNames = new Set<string>();

  private constructor(paths: SitePaths) {
    this.#paths = paths;
  }

  /** Reads all VMs; directories that cannot be read are reported and left alone. */
  static async open(paths: SitePaths, onDamaged: (error: Error) => void): Promise<VmStore> {
    const store = new VmStore(paths);
    await mkdir(paths.vmsDir, { recursive: true, mode: 0o700 });
    for (const name of await readdir(paths.vmsDir)) {
      if (!vmIdSchema.safeParse(name).success) continue;
      try {
        await store.#load(name);
      } catch (error) {
        onDamaged(
          failVm('VM_DAMAGED', `${paths.vm(name).dir}: ${asCloudapError(error).message}`, { cause: error }),
        );
      }
    }
    return store;
  }

  async #load(id: string): Promise<void> {
    const paths = this.#paths.vm(id);
    const definition = await readJson(paths.vmFile, vmDefinitionSchema);
    if (!definition) {
      // `create` writes vm.json last: a directory without it never was a VM
      await rm(paths.dir, { recursive: true, force: true });
      return;
    }
    await readOwnership(paths.ownershipFile);
    this.#vms.set(id, {
      definition,
      paths,
      problem: await readJson(`${paths.dir}/problem.json`, problemFileSchema),
      busy: undefined,
    });
  }

  list(): StoredVm[] {
    return [...this.#vms.values()].sort((a, b) => a.definition.createdAtMs - b.definition.createdAtMs);
  }

  has(id: string): boolean {
    return this.#vms.has(id);
  }

  /** By id or name. @throws VM_UNKNOWN */
  get(idOrName: string): StoredVm {
    const vm = this.#vms.get(idOrName) ?? this.list().find((v) => v.definition.name === idOrName);
    if (!vm) throw failVm('VM_UNKNOWN', idOrName, { fields: { vm: idOrName } });
    return vm;
  }

  nameTaken(name: string): boolean {
    return this.#reservedNames.has(name) || this.list().some((v) => v.definition.name === name);
  }

  /** Number of VMs, those being made included. */
  get count(): number {
    return this.#vms.size + this.#reservedNames.size;
  }

  /**
   * Makes the directory of a VM: `fill` puts the disk there, then the ownership and, last, `vm.json` are written.
   * Whatever fails leaves nothing. @throws VM_NAME_TAKEN, and what `fill` throws
   */
  async create(
    definition: VmDefinition,
    ownership: Ownership,
    fill: (paths: VmPaths) => Promise<void>,
  ): Promise<StoredVm> {
    if (this.nameTaken(definition.name)) throw failVm('VM_NAME_TAKEN', definition.name);
    this.#reservedNames.add(definition.name);
    const paths = this.#paths.vm(definition.id);
    try {
      await mkdir(paths.dir, { mode: 0o700 });
      try {
        await fill(paths);
        await writeOwnership(paths.ownershipFile, ownership);
        await writeJson(paths.vmFile, definition);
      } catch (error) {
        await rm(paths.dir, { recursive: true, force: true });
        throw error;
      }
      const vm: StoredVm = { definition, paths, problem: undefined, busy: undefined };
      this.#vms.set(definition.id, vm);
      return vm;
    } finally {
      this.#reservedNames.delete(definition.name);
    }
  }

  /** Removes every file and socket of a VM. `vm.json` goes first: an interrupted removal is finished at the next start. */
  async remove(vm: StoredVm): Promise<void> {
    await rm(vm.paths.vmFile, { force: true });
    await rm(vm.paths.dir, { recursive: true, force: true });
    await rm(vm.paths.socketDir, { recursive: true, force: true });
    this.#vms.delete(vm.definition.id);
  }

  async setProblem(vm: StoredVm, problem: Problem | undefined): Promise<void> {
    vm.problem = problem;
    const file = `${vm.paths.dir}/problem.json`;
    if (problem) await writeJson(file, problem);
    else await rm(file, { force: true });
  }

  /** Runs one operation on a VM at a time. @throws VM_BUSY */
  async exclusive<T>(vm: StoredVm, operation: string, work: () => Promise<T>): Promise<T> {
    const release = this.occupy(vm, operation);
    try {
      return await work();
    } finally {
      release();
    }
  }

  /** As `exclusive`, for operations that outlive a call; the result gives the VM back. @throws VM_BUSY */
  occupy(vm: StoredVm, operation: string): () => void {
    if (vm.busy !== undefined) {
      throw failVm('VM_BUSY', `${vm.definition.name}: ${vm.busy}`, { fields: { operation: vm.busy } });
    }
    if (this.#vms.get(vm.definition.id) !== vm) throw failVm('VM_UNKNOWN', vm.definition.name);
    vm.busy = operation;
    let held = true;
    return () => {
      if (held) vm.busy = undefined;
      held = false;
    };
  }
}
