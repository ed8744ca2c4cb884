/** A site whose processes are fakes: QEMU, movers, images and disks; everything above them is the real thing. */
import { randomUUID } from 'node:crypto';
import { copyFile, writeFile } from 'node:fs/promises';
import { pino } from 'pino';
import { processAlive } from '../../src/base/process.ts';
import { CloudapError } from '../../src/base/errors.ts';
import { templateFiles } from '../../src/content/templates/store.ts';
import type { MoverConfig, MoverStatus } from '../../src/migration/mover/config.ts';
import type { MoverHandle } from '../../src/migration/mover/handle.ts';
import { changeOwnership, readOwnership } from '../../src/migration/ownership.ts';
import type { ProcessIdentity } from '../../src/qemu/process-identity.ts';
import type { SiteConfig } from '../../src/site/config.ts';
import { loadConfig } from '../../src/site/config.ts';
import type { BaseImage, QemuFacts, QemuHandle, SiteBackends, StartQemu } from '../../src/site/ports.ts';
import { initSite } from '../../src/site/setup/init.ts';
import { Site } from '../../src/site/site.ts';
import type { TempDir } from './tempdir.ts';

export const fakeDigest = 'a'.repeat(64);
let nextPid = 4_000_000;

export class FakeQemu implements QemuHandle {
  readonly identity: ProcessIdentity;
  readonly request: StartQemu;
  readonly exited: Promise<void>;
  readonly end: () => void;
  ended = false;
  state = 'running';
  independent = true;
  /** ACPI: what the guest does about it. */
  obeysPowerButton = true;
  resumed = 0;

  constructor(request: StartQemu) {
    nextPid += 1;
    this.identity = { pid: nextPid, startTicks: 1, bootId: randomUUID() };
    this.request = request;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.exited = promise;
    this.end = () => {
      this.ended = true;
      resolve();
    };
  }

  async runState(): Promise<string> {
    return this.state;
  }
  async powerdown(): Promise<void> {
    if (this.obeysPowerButton) this.end();
  }
  async quit(): Promise<void> {
    this.end();
  }
  async kill(): Promise<void> {
    this.end();
  }
  async screenshotPng(): Promise<Buffer> {
    return Buffer.from('\u0089PNG\r\n\u001A\n', 'latin1');
  }
  async resumeAfterFailedMigration(): Promise<void> {
    this.resumed += 1;
    this.state = 'running';
  }
  async saveDevices(file: string): Promise<void> {
    await writeFile(file, 'devices');
    this.state = 'postmigrate';
  }
  async copyTo(_other: unknown, whileStopped: () => Promise<void>): Promise<number> {
    await whileStopped();
    return 1;
  }
  async takeBack(options: { ownershipPath: string; siteId: string; generation: number }): Promise<void> {
    const { ownershipPath, siteId, generation } = options;
    const found = await readOwnership(ownershipPath);
    await changeOwnership(ownershipPath, found, {
      owner: siteId,
      generation: generation + 2,
      state: 'owned',
      peer: null,
    });
    this.state = 'running';
  }
  async isIndependent(): Promise<boolean> {
    return this.independent;
  }
  async detach(): Promise<void> {}
}

export class FakeMover implements MoverHandle {
  readonly pid = 1;
  readonly config: MoverConfig;
  readonly exited: Promise<MoverStatus | undefined>;
  status: MoverStatus;
  cancelled: string | undefined;
  qemuIsUp = false;
  killed = false;
  /** Set to let `cancel` fail as after the switch. */
  tooLate = false;
  readonly #resolve: (status: MoverStatus | undefined) => void;
  readonly #listeners = new Set<(status: MoverStatus) => void>();

  constructor(config: MoverConfig) {
    this.config = config;
    const { promise, resolve } = Promise.withResolvers<MoverStatus | undefined>();
    this.exited = promise;
    this.#resolve = resolve;
    this.status = {
      migrationId: config.migrationId,
      role: config.role,
      state: 'connecting',
      link: 'connecting',
      progress: { pagesDone: 0, pagesTotal: 0, blocksDone: 0, blocksTotal: 0, bytesSent: 0, rateMbit: null },
      error: null,
      record: null,
    };
  }

  onStatus(listener: (status: MoverStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
  tell(change: Partial<MoverStatus>): void {
    this.status = { ...this.status, ...change };
    for (const listener of this.#listeners) listener(this.status);
  }
  /** Ends the process; without a state it dies without a word. */
  finish(change?: Partial<MoverStatus>): void {
    if (change) this.tell(change);
    this.#resolve(this.status);
  }
  async qemuStarted(): Promise<void> {
    this.qemuIsUp = true;
  }
  async takeBack(): Promise<void> {}
  async cancel(reason: string): Promise<void> {
    if (this.tooLate) throw new CloudapError('MOVER_TOO_LATE', 'too late', '');
    this.cancelled = reason;
    this.finish({ state: 'cancelled', error: { code: 'MOVER_CANCELLED', message: reason, remedy: '' } });
  }
  async kill(): Promise<void> {
    this.killed = true;
    this.#resolve(this.status);
  }
  async [Symbol.asyncDispose](): Promise<void> {}
}

/** The machine below a site: survives the site's end, as processes do. */
export class FakeHost {
  readonly qemus: FakeQemu[] = [];
  readonly movers: FakeMover[] = [];
  facts: QemuFacts = {
    version: '7.2.22',
    accelerator: 'tcg',
    acceleratorReason: 'a fake',
    machineTypes: new Set(['pc-i440fx-7.2']),
    cpuModels: new Set(['qemu64']),
  };
  image: BaseImage = {
    digest: fakeDigest,
    name: 'fake',
    format: 'raw',
    virtualBytes: 1024 ** 2,
    diskPath: '/nowhere/disk.raw',
    kernelPath: undefined,
    initrdPath: undefined,
    commandLine: '',
    defaults: { memoryMiB: 64, cpus: 1, display: 'vga', input: 'none' },
    serialPorts: 1,
  };
  freeBytes = 1024 ** 4;
  startFails: Error | undefined;
  moverFails: Error | undefined;
  /** Waited for before a mover is there. */
  beforeMover: () => Promise<void> = () => Promise.resolve();

  get qemu(): FakeQemu {
    return last(this.qemus);
  }
  get mover(): FakeMover {
    return last(this.movers);
  }
  get runningQemus(): number {
    return this.qemus.filter((qemu) => !qemu.ended).length;
  }

  backends(): SiteBackends {
    return {
      qemu: {
        facts: async () => this.facts,
        checkMachine: async () => {},
        start: async (request) => {
          if (this.startFails) throw this.startFails;
          const qemu = new FakeQemu(request);
          if (request.incoming) qemu.state = 'inmigrate';
          this.qemus.push(qemu);
          return qemu;
        },
        adopt: async (_definition, _paths, identity) =>
          this.qemus.find((qemu) => !qemu.ended && qemu.identity.pid === identity.pid),
      },
      images: {
        get: async (reference) => {
          if (reference === this.image.name || reference === this.image.digest) return this.image;
          throw new CloudapError('IMAGE_UNKNOWN', reference, '');
        },
        find: async (digest) => (digest === this.image.digest ? this.image : undefined),
      },
      templates: {
        get: async (reference) => {
          throw new CloudapError('TEMPLATE_UNKNOWN', reference, '');
        },
        find: async () => undefined,
        list: async () => [],
        remove: async (reference) => {
          throw new CloudapError('TEMPLATE_UNKNOWN', reference, '');
        },
        newFiles: () => templateFiles('/nowhere'),
        add: async () => {
          throw new CloudapError('TEMPLATE_STORE', 'a fake', '');
        },
      },
      movers: {
        start: async (config) => {
          await this.beforeMover();
          if (this.moverFails) throw this.moverFails;
          const mover = new FakeMover(config);
          this.movers.push(mover);
          return mover;
        },
        adopt: async (rpcSocket) =>
          this.movers.find(
            (mover) =>
              mover.config.rpcSocket === rpcSocket && mover.status.state !== 'failed' && !mover.killed,
          ),
      },
      disks: {
        createQcow2: (path) => writeFile(path, 'overlay'),
        copy: copyFile,
        setBacking: async () => {},
        freeBytes: async () => this.freeBytes,
        fileBytes: async () => ({ allocated: 4096, length: 196_616 }),
      },
    };
  }
}

function last<T>(list: readonly T[]): T {
  const found = list.at(-1);
  if (found === undefined) throw new Error('none was started yet');
  return found;
}

/** A configuration with CA and certificate below `dir`; no gateway unless `listen` is given. */
export async function fakeConfig(dir: TempDir, id = 'center', listen = 'none'): Promise<SiteConfig> {
  const { config } = await initSite({ id, dir: dir.file(id), listen, memoryMiB: 512, accelerator: 'tcg' });
  return { ...loadConfig(config), runtimeDir: dir.file(`r-${id}`) };
}

export const quietLog = pino({ level: 'silent' });

/** A site that stops with its scope. */
export async function startFakeSite(
  config: SiteConfig,
  host: FakeHost,
  timeouts: { sourceMoverMs?: number; prepareMs?: number; callMs?: number } = {},
): Promise<Site & AsyncDisposable> {
  const site = await Site.start(config, { backends: host.backends(), log: quietLog, timeouts });
  const stop = site.stop.bind(site);
  let stopped: Promise<void> | undefined;
  return Object.assign(site, {
    stop: (options?: { stopVms?: boolean }) => (stopped ??= stop(options)),
    [Symbol.asyncDispose]: async () => {
      // a gateway stays while a migration is under way, and fake movers never end theirs
      const gateway = (await site.status()).gatewayPid;
      await (stopped ??= stop());
      if (gateway !== null && processAlive(gateway)) process.kill(gateway, 'SIGKILL');
    },
  });
}
