import { randomUUID } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { type ContentFile, contentOfDisk } from '../../src/content/pages/store.ts';
import { buildGuest } from '../../src/content/guests/build.ts';
import { type Image, ImageStore } from '../../src/content/images/store.ts';
import { Emulator } from '../../src/link/emulator.ts';
import type { LinkSpec } from '../../src/link/link-spec.ts';
import { generateCa, issueSiteCertificate, writeSiteCertificate } from '../../src/link/pki.ts';
import type { SourceMoverConfig, TargetMoverConfig } from '../../src/migration/mover/config.ts';
import type { MoverHandle } from '../../src/migration/mover/handle.ts';
import { startMover } from '../../src/migration/mover/spawn.ts';
import { readOwnership, writeOwnership } from '../../src/migration/ownership.ts';
import { type MigrationRecord, migrationRecordSchema } from '../../src/migration/record.ts';
import type { BaseImage } from '../../src/qemu/block-nodes.ts';
import type { QemuPaths } from '../../src/qemu/command-line.ts';
import { parseMachineSpec } from '../../src/qemu/machine-spec.ts';
import { QemuProcess } from '../../src/qemu/process.ts';
import type { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { connectSerial } from '../content/launcher.ts';
import { createQcow2 } from './qemu.ts';
import type { TempDir } from './tempdir.ts';

const CACHE = resolve('.cache');

/** The small guest, built once and kept in the repository's cache. */
export async function ciGuest(): Promise<Image> {
  return buildGuest('ci', await ImageStore.open(`${CACHE}/images`), CACHE, {});
}

/** A VM at one site of the lab. */
export interface Place {
  readonly site: string;
  readonly dir: string;
  readonly vm: QemuProcess;
  readonly workload: WorkloadClient;
  readonly overlayPath: string;
  readonly ownershipPath: string;
  readonly generation: number;
}

/** One migration under way: both movers, and where the VM arrives. */
export interface Run {
  readonly source: MoverHandle;
  readonly target: MoverHandle;
  readonly targetVm: QemuProcess;
  readonly targetDir: string;
  readonly recordPath: string;
  /** The WAN between the movers, where one was asked for. */
  readonly emulator: Emulator | undefined;
  /** Waits for both movers; the VM's new place. Throws when it did not complete. */
  finish(): Promise<{ place: Place; record: MigrationRecord }>;
}

export interface MigrateOptions {
  /** Changes of the source's configuration; the time that a link may be lost holds for both sides. */
  change?: Partial<SourceMoverConfig>;
  /** A WAN between the movers; without it they are connected directly. */
  link?: Partial<LinkSpec>;
  /** What the target's mover has of the base image, where that is not the source's own file. */
  targetContent?: readonly ContentFile[];
  /** It is dead from the beginning. */
  cut?: boolean;
}

/** Two sites without agents: QEMUs and movers as an agent would start them, for tests of the engine itself. */
export class MoverLab implements AsyncDisposable {
  readonly #dir: TempDir;
  readonly #image: Image;
  readonly #stack = new AsyncDisposableStack();
  #count = 0;

  private constructor(dir: TempDir, image: Image) {
    this.#dir = dir;
    this.#image = image;
  }

  static async create(dir: TempDir): Promise<MoverLab> {
    const lab = new MoverLab(dir, await ciGuest());
    const ca = await generateCa();
    for (const site of ['center', 'ap1']) {
      await writeSiteCertificate(dir.file(site), await issueSiteCertificate(ca, site));
    }
    return lab;
  }

  get image(): Image {
    return this.#image;
  }

  /** Boots the guest at a site and waits for its workload. */
  async boot(site: string): Promise<Place> {
    const dir = await this.#newDir(site);
    const overlayPath = `${dir}/overlay.qcow2`;
    await createQcow2(overlayPath, this.#image.manifest.disk.virtualSizeBytes, this.#base());
    const ownershipPath = `${dir}/ownership.json`;
    const owned = {
      version: 1,
      vmId: 'vm1',
      owner: site,
      generation: 1,
      state: 'owned',
      peer: null,
    } as const;
    await writeOwnership(ownershipPath, owned);
    const vm = await this.#start(dir, { mode: 'normal', base: this.#base(), overlayPath });
    const workload = await this.#workload(dir);
    await workload.ready();
    return { site, dir, vm, workload, overlayPath, ownershipPath, generation: 1 };
  }

  /** Prepares the target and starts both movers, as two agents would. */
  async migrate(from: Place, options: MigrateOptions = {}): Promise<Run> {
    const site = from.site === 'center' ? 'ap1' : 'center';
    const initiatedAtMs = Date.now();
    const dir = await this.#newDir(site);
    const size = this.#image.manifest.disk.virtualSizeBytes;
    const overlayPath = `${dir}/overlay.qcow2`;
    await createQcow2(overlayPath, size);
    await createQcow2(`${dir}/top.qcow2`, size);
    const ownershipPath = `${dir}/ownership.json`;
    await writeOwnership(ownershipPath, {
      version: 1,
      vmId: 'vm1',
      owner: from.site,
      generation: from.generation,
      state: 'incoming',
      peer: from.site,
    });
    const migrationId = `m-${randomUUID().slice(0, 8)}`;
    const common = { migrationId, vmId: 'vm1', linkLossTimeoutMs: options.change?.linkLossTimeoutMs ?? 4000 };
    const linkSocket = `${dir}/link.sock`;
    const target: TargetMoverConfig = {
      ...common,
      ...this.#sideOf(site, from.site, dir),
      role: 'target',
      link: { mode: 'listen', socketPath: linkSocket },
      overlayPath,
      nbdSocket: `${dir}/nbd.sock`,
      topPath: `${dir}/top.qcow2`,
      allocationSocket: `${dir}/alloc.sock`,
      exportSizeBytes: size + (size >> 1) + (64 << 20),
      generation: from.generation,
      content: [...(options.targetContent ?? [contentOfDisk(this.#image.diskPath)])],
    };
    const targetMover = this.#stack.use(killed(await startMover(target)));
    const targetVm = await this.#start(dir, {
      mode: 'incoming',
      base: this.#base(),
      overlay: { socketPath: target.nbdSocket },
      topPath: target.topPath,
    });
    await targetMover.qemuStarted();
    const emulator = options.link
      ? this.#stack.use(
          await Emulator.listen({
            ...options.link,
            listen: { path: `${dir}/wan.sock` },
            forward: { path: linkSocket },
          }),
        )
      : undefined;
    if (options.cut) emulator?.cut();
    const source: SourceMoverConfig = {
      ...common,
      ...this.#sideOf(from.site, site, from.dir),
      role: 'source',
      link: { mode: 'dial', address: emulator?.address ?? { path: linkSocket } },
      overlayPath: from.overlayPath,
      scheme: 'hybrid',
      memoryCodec: 'rle',
      content: [contentOfDisk(this.#image.diskPath)],
      diskCodec: 'rle',
      preempt: true,
      initiatedAtMs,
      accelerator: 'tcg',
      qemuVersion: '7.2',
      vm: {
        name: 'vm1',
        memoryMiB: this.#image.manifest.defaults.memoryMiB,
        cpus: 1,
        image: this.#image.manifest.digest,
        generation: from.generation,
      },
      ...options.change,
    };
    const sourceMover = this.#stack.use(killed(await startMover(source)));
    return {
      source: sourceMover,
      target: targetMover,
      targetVm,
      targetDir: dir,
      recordPath: source.recordPath,
      emulator,
      finish: async () => {
        const [ended, arrived] = await Promise.all([sourceMover.exited, targetMover.exited]);
        if (ended?.state !== 'completed' || arrived?.state !== 'completed') {
          throw new Error(`source ${JSON.stringify(ended)} target ${JSON.stringify(arrived)}`);
        }
        from.workload[Symbol.dispose]();
        await from.vm.quit();
        const { generation } = await readOwnership(ownershipPath);
        const workload = await this.#workload(dir);
        const record = migrationRecordSchema.parse(JSON.parse(await readFile(source.recordPath, 'utf8')));
        return {
          place: { site, dir, vm: targetVm, workload, overlayPath, ownershipPath, generation },
          record,
        };
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  #base(): BaseImage {
    return { path: this.#image.diskPath, format: this.#image.manifest.disk.format };
  }

  async #newDir(site: string): Promise<string> {
    this.#count += 1;
    const dir = this.#dir.file(`${site}-${this.#count}`);
    await mkdir(dir, { mode: 0o700 });
    return dir;
  }

  #sideOf(siteId: string, peerSiteId: string, dir: string) {
    const tls = this.#dir.file(siteId);
    return {
      siteId,
      peerSiteId,
      rpcSocket: `${dir}/rpc.sock`,
      logPath: `${dir}/mover.log`,
      recordPath: `${dir}/record.json`,
      tls: { caPath: `${tls}/ca.pem`, certPath: `${tls}/site.pem`, keyPath: `${tls}/site.key` },
      qmpSocket: `${dir}/mover.sock`,
      streamSocket: `${dir}/stream.sock`,
      ownershipPath: `${dir}/ownership.json`,
    };
  }

  async #start(dir: string, disk: Parameters<typeof QemuProcess.start>[0]['disk']): Promise<QemuProcess> {
    const { manifest, kernelPath, initrdPath } = this.#image;
    const paths: QemuPaths = {
      qmpSocket: `${dir}/qmp.sock`,
      moverSocket: `${dir}/mover.sock`,
      serialLog: `${dir}/serial.log`,
      serial1Socket: `${dir}/serial1.sock`,
      kernel: kernelPath,
      initrd: initrdPath,
    };
    const vm = await QemuProcess.start({
      spec: parseMachineSpec({
        machineType: 'pc-i440fx-7.2',
        cpuModel: 'qemu64,+rdrand',
        cpus: 1,
        memoryMiB: manifest.defaults.memoryMiB,
        diskBytes: manifest.disk.virtualSizeBytes,
        display: 'none',
        serialPorts: 2,
        directBoot: { kernel: 'kernel', initrd: 'initrd', commandLine: manifest.commandLine ?? '' },
        uuid: '4a1f2c6e-7d0b-4c55-9d8e-2f3f6f0a9b10',
      }),
      name: 'vm1',
      program: process.env['CLOUDAP_TEST_QEMU'],
      accelerator: 'tcg',
      paths,
      disk,
      logPath: `${dir}/qemu.log`,
    });
    return this.#stack.use(vm);
  }

  #workload(dir: string): Promise<WorkloadClient> {
    return connectSerial(`${dir}/serial1.sock`);
  }
}

/** A test never leaves a mover behind. */
function killed(mover: MoverHandle): MoverHandle {
  mover[Symbol.asyncDispose] = () => mover.kill();
  return mover;
}
