import type { GuestInfo } from '../content/images/manifest.ts';
import type { Template, TemplateStore } from '../content/templates/store.ts';
import type { MoverConfig } from '../migration/mover/config.ts';
import type { MoverHandle } from '../migration/mover/handle.ts';
import type { MemoryFile } from '../qemu/command-line.ts';
import type { ProcessIdentity } from '../qemu/process-identity.ts';
import type { VmPaths } from './paths.ts';
import type { VmDefinition } from './vm/definition.ts';

/**
 * What the agent needs from below, as interfaces: tests put fakes here, the running agent the real thing
 * (`backends.ts`). Nothing in the agent starts a process or opens an image by itself.
 */
export interface SiteBackends {
  qemu: QemuBackend;
  images: ImageBackend;
  templates: TemplateBackend;
  movers: MoverBackend;
  disks: DiskBackend;
}

export interface QemuFacts {
  /** As `7.2.22`. */
  version: string;
  accelerator: 'tcg' | 'kvm';
  acceleratorReason: string;
  machineTypes: ReadonlySet<string>;
  cpuModels: ReadonlySet<string>;
}

/** A QEMU process of this site. It goes on when the agent ends. */
export interface QemuHandle {
  readonly identity: ProcessIdentity;
  /** Settles when the process has ended, however. */
  readonly exited: Promise<void>;
  /** QEMU's run state: running, paused, inmigrate, postmigrate, … */
  runState(): Promise<string>;
  /** Presses the ACPI power button. */
  powerdown(): Promise<void>;
  /** Ends QEMU, by its monitor and if need be by its pid, and waits for the end. */
  quit(): Promise<void>;
  kill(): Promise<void>;
  screenshotPng(): Promise<Buffer>;
  /** Lets a guest go on that a failed migration left paused; cancels what is left of that migration. */
  resumeAfterFailedMigration(): Promise<void>;
  /** Stops the guest and saves all but its memory, which must be a shared file. @throws QEMU_STATE_NOT_SAVED */
  saveDevices(file: string, signal?: AbortSignal): Promise<void>;
  /**
   * Copies the guest as it is into a QEMU that waits for it (`waiting`), and lets it go on; `whileStopped` runs while it
   * stands still and its disk is flushed. @returns how long it stood still, ms @throws QEMU_STATE_NOT_SAVED
   */
  copyTo(other: QemuHandle, whileStopped: () => Promise<void>, signal?: AbortSignal): Promise<number>;
  /** The VM, stopped when it was handed over to a target that is lost, goes on here. @throws OWNERSHIP_CONFLICT, MOVER_TIMEOUT */
  takeBack(options: { ownershipPath: string; siteId: string; generation: number }): Promise<void>;
  /** Whether the disk is base <- overlay again, with nothing of a migration in it. */
  isIndependent(): Promise<boolean>;
  /** Closes the monitor connection only. */
  detach(): Promise<void>;
}

/** An image in this site's store; `files` are absolute. */
export interface BaseImage {
  digest: string;
  name: string;
  format: 'qcow2' | 'raw';
  virtualBytes: number;
  diskPath: string;
  kernelPath: string | undefined;
  initrdPath: string | undefined;
  /** The image's own kernel command line. */
  commandLine: string;
  defaults: { memoryMiB: number; cpus: number; display: 'vga' | 'none'; input: 'tablet' | 'none' };
  /** 2 where a program in the guest speaks on the second port. */
  serialPorts: 1 | 2;
  /** How to see that the guest is up. */
  guest?: GuestInfo | undefined;
}

export interface StartQemu {
  definition: VmDefinition;
  paths: VmPaths;
  image: BaseImage;
  /** Waits for a migration, its disk served by the mover behind `nbdSocket`. */
  incoming?: { nbdSocket: string };
  /** Goes on from this state, with a copy of its overlay as the disk, instead of booting; it runs when QEMU is there. */
  template?: Template;
  /** It gets its state from a running VM, and does not run itself. */
  waiting?: boolean;
  /** The guest's memory is this file. */
  memoryFile?: MemoryFile;
}

export interface QemuBackend {
  facts(): Promise<QemuFacts>;
  /** Whether this QEMU can make such a machine, CPU flags included. @throws QEMU_MACHINE_UNSUPPORTED */
  checkMachine(definition: VmDefinition): Promise<void>;
  start(request: StartQemu): Promise<QemuHandle>;
  /** The process of `identity` if it is still that QEMU. */
  adopt(definition: VmDefinition, paths: VmPaths, identity: ProcessIdentity): Promise<QemuHandle | undefined>;
}

export interface ImageBackend {
  /** By digest, unique prefix or name. @throws IMAGE_* when there is none */
  get(reference: string): Promise<BaseImage>;
  /** By digest; undefined where the site does not have it. @throws IMAGE_CORRUPT */
  find(digest: string): Promise<BaseImage | undefined>;
}

export type TemplateBackend = Pick<TemplateStore, 'get' | 'find' | 'list' | 'remove' | 'newFiles' | 'add'>;

export interface MoverBackend {
  start(config: MoverConfig): Promise<MoverHandle>;
  /** The mover that serves this socket, if it still runs. */
  adopt(rpcSocket: string): Promise<MoverHandle | undefined>;
}

export interface DiskBackend {
  /** A new qcow2; with `backing` an overlay of that image. */
  createQcow2(
    path: string,
    virtualBytes: number,
    backing?: { path: string; format: 'qcow2' | 'raw' },
  ): Promise<void>;
  /** A writable copy that only the site's user reads; the file system shares the blocks where it can. */
  copy(from: string, to: string): Promise<void>;
  /** Corrects the backing file named in an overlay's header, without looking at it. */
  setBacking(path: string, backing: { path: string; format: 'qcow2' | 'raw' }): Promise<void>;
  freeBytes(directory: string): Promise<number>;
  /** Bytes that a file takes on disk, and its length. */
  fileBytes(path: string): Promise<{ allocated: number; length: number }>;
}

/** The other end of an agent connection; `RpcPeer` of the link room. */
export interface PeerRpc {
  call(
    method: string,
    params: unknown,
    options?: { signal?: AbortSignal; timeoutMs?: number },
  ): Promise<unknown>;
}
