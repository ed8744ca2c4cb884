import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { ResidueStore } from '../content/residue/store.ts';
import { RelayServer } from '../link/relay/server.ts';
import type { TlsMaterial } from '../link/tls.ts';
import type { Logger } from 'pino';
import { apiServer, listenApi } from './api/server.ts';
import type { SiteStatus, SiteView, VmView } from './api/messages.ts';
import type { TemplateView } from './api/template-messages.ts';
import { formatAddress } from './config-text.ts';
import type { SiteConfig } from './config.ts';
import { PEER_CALL_TIMEOUT_MS, PREPARE_TIMEOUT_MS, SOURCE_MOVER_TIMEOUT_MS } from './constants.ts';
import { GatewayProcess } from './gateway-process.ts';
import { lockDataDir } from './lock.ts';
import type { MigrateContext } from './migrate/context.ts';
import { forgetResidue, forgetVm } from './migrate/forget.ts';
import { MigrationManager } from './migrate/manager.ts';
import { makeRuntimeDir, removeRuntimeDir, sitePaths, type SitePaths } from './paths.ts';
import { Peers } from './peers.ts';
import type { QemuFacts, SiteBackends } from './ports.ts';
import { PushManager } from './stage/manager.ts';
import { artefactStores } from './stage/stores.ts';
import { TemplateBuilds } from './templates/builds.ts';
import { viewTemplate, vmsOfTemplate } from './templates/view.ts';
import { loadTls } from './tls.ts';
import { VERSION } from './version.ts';
import { VmManager } from './vm/manager.ts';
import { VmStore, type StoredVm } from './vm/store.ts';
import { viewVm } from './vm/view.ts';

const MIB = 1024 * 1024;

export interface SiteOptions {
  backends: SiteBackends;
  log: Logger;
  timeouts?: Partial<MigrateContext['timeouts']>;
}

/** One site's agent: a control loop that starts processes and talks to them; it moves no data itself. */
export class Site {
  readonly config: SiteConfig;
  readonly paths: SitePaths;
  readonly log: Logger;
  readonly vms: VmManager;
  readonly migrations: MigrationManager;
  readonly pushes: PushManager;
  readonly residue: ResidueStore;
  readonly builds: TemplateBuilds;
  readonly #backends: SiteBackends;
  readonly #closing = new AbortController();
  readonly #startedAtMs = Date.now();
  readonly #lock: Disposable;
  #peers: Peers | undefined;
  #relay: RelayServer | undefined;
  #gateway: GatewayProcess | undefined;
  #api: FastifyInstance | undefined;

  private constructor(
    config: SiteConfig,
    options: SiteOptions,
    facts: QemuFacts,
    store: VmStore,
    lock: Disposable,
  ) {
    const { backends, log } = options;
    this.config = config;
    this.paths = sitePaths(config);
    this.log = log;
    this.#backends = backends;
    this.#lock = lock;
    this.residue = new ResidueStore({
      folder: this.paths.residueDir,
      maxBytes: config.residue.maxMiB * MIB,
    });
    this.vms = new VmManager({
      config,
      backends,
      facts,
      store,
      log,
      onRemoved: (vmId) => void forgetVm({ residue: this.residue, log, peers: () => this.peers }, vmId),
    });
    this.builds = new TemplateBuilds({ paths: this.paths, backends, vms: this.vms }, log);
    const common = {
      config,
      paths: this.paths,
      log,
      peer: (site: string) => this.peers.get(site),
      dialAddress: (site: string) => this.peers.dialAddress(site),
      relayFor: (site: string) => this.peers.relayFor(site),
    };
    this.pushes = new PushManager({
      ...common,
      stores: artefactStores(this.paths),
      prepareTimeoutMs: PREPARE_TIMEOUT_MS,
      giveWay: (freeBytes) => this.residue.giveWay(freeBytes),
    });
    this.migrations = new MigrationManager({
      ...common,
      backends,
      vms: this.vms,
      onActivity: () => this.pushes.pause(this.migrations.hasActive),
      residue: this.residue,
      closing: this.#closing.signal,
      timeouts: {
        sourceMoverMs: SOURCE_MOVER_TIMEOUT_MS,
        prepareMs: PREPARE_TIMEOUT_MS,
        callMs: PEER_CALL_TIMEOUT_MS,
        ...options.timeouts,
      },
    });
  }

  /**
   * Locks the data directory, takes up what runs, and only then listens.
   * @throws SITE_LOCKED, SITE_RUNTIME_DIR, SITE_TLS, SITE_GATEWAY, PROGRAM_MISSING
   */
  static async start(config: SiteConfig, options: SiteOptions): Promise<Site> {
    const { log } = options;
    await mkdir(config.dataDir, { recursive: true, mode: 0o700 });
    const lock = lockDataDir(config.dataDir);
    let site: Site | undefined;
    try {
      makeRuntimeDir(config.runtimeDir);
      const paths = sitePaths(config);
      const [tls, facts, store] = await Promise.all([
        loadTls({ ...config.tls, peers: config.peersFile }, config.id),
        options.backends.qemu.facts(),
        VmStore.open(paths, (error) => log.error({ err: error }, 'VM')),
      ]);
      site = new Site(config, options, facts, store, lock);
      await site.vms.adoptAll();
      await site.builds.recover();
      // before the connections: nobody may ask for what is not settled yet; what hangs on a target's word is asked then
      await site.migrations.recover();
      await site.pushes.recover();
      await site.#connect(tls);
      await site.#serve();
      log.info({ accelerator: facts.accelerator, qemu: facts.version }, 'site ready');
      return site;
    } catch (error) {
      if (site) await site.#close(true).catch(() => {});
      else lock[Symbol.dispose]();
      throw error;
    }
  }

  async #connect(tls: TlsMaterial): Promise<void> {
    const { config, paths, log, migrations } = this;
    const { version, accelerator } = this.vms.facts;
    this.#peers = await Peers.start({
      config,
      paths,
      tls,
      log,
      hello: { version: 1, site: config.id, qemuVersion: version, accelerator },
      handlers: (site) => ({
        'migration.prepare': (params, { signal }) => migrations.prepare(site, params, signal),
        'migration.abort': (params) => migrations.abort(site, params),
        'migration.outcome': (params) => migrations.outcome(site, params),
        'stage.prepare': (params) => this.pushes.prepare(site, params),
        'stage.abort': (params) => this.pushes.abort(site, params),
        'residue.forget': (params) => forgetResidue(this.residue, site, params),
      }),
      onConnected: (site) => {
        migrations
          .onPeerConnected(site)
          .catch((error: unknown) => log.error({ err: error, peer: site }, 'migration'));
      },
    });
    const { listen, relay } = config.link;
    if (!listen) return;
    if (relay) {
      this.#relay = await RelayServer.listen({
        socketDir: paths.linkDir,
        tls,
        onRelayed: (from, to, route) => log.info({ from, to, route }, 'relayed'),
        onRefused: (error) => log.warn({ err: error.message }, 'relay: a connection was refused'),
      });
    }
    this.#gateway = await GatewayProcess.start({
      listen,
      log,
      linkDir: paths.linkDir,
      logFile: paths.gatewayLog,
      noteFile: join(config.dataDir, 'gateway.json'),
    });
  }

  async #serve(): Promise<void> {
    this.#api = apiServer(this);
    await listenApi(this.#api, this.paths.apiSocket);
  }

  get peers(): Peers {
    if (!this.#peers) throw new Error('the site is not connected yet');
    return this.#peers;
  }

  /** This site has another certificate: from the next connection on. Movers read the files themselves. */
  renew(tls: TlsMaterial): void {
    this.peers.renew(tls);
    this.#relay?.renew(tls);
  }

  /** The HTTP side, for tests that inject requests. */
  get api(): FastifyInstance {
    if (!this.#api) throw new Error('the site does not serve yet');
    return this.#api;
  }

  async view(vm: StoredVm): Promise<VmView> {
    const image = await this.#backends.images.find(vm.definition.image).catch(() => undefined);
    return viewVm(this.config.id, this.vms, vm, this.migrations.activeOf(vm.definition.id)?.id, image);
  }

  /** Bytes that the VM's disk takes above its base image. */
  async diskBytes(vm: StoredVm): Promise<number> {
    return (await this.#backends.disks.fileBytes(vm.paths.overlay)).allocated;
  }

  async templates(): Promise<TemplateView[]> {
    const templates = await this.#backends.templates.list();
    return Promise.all(templates.map((template) => viewTemplate(this.vms, template)));
  }

  /** @throws TEMPLATE_UNKNOWN, TEMPLATE_AMBIGUOUS, TEMPLATE_IN_USE */
  async removeTemplate(reference: string): Promise<{ digest: string; name: string }> {
    const { digest, name } = await this.#backends.templates.remove(reference, (found) =>
      vmsOfTemplate(this.vms, found),
    );
    this.log.info({ template: digest, name }, 'template removed');
    return { digest, name };
  }

  sites(): SiteView[] {
    const { listen, advertise } = this.config.link;
    const address = advertise ?? listen;
    const { version, accelerator } = this.vms.facts;
    const self: SiteView = {
      id: this.config.id,
      self: true,
      connected: true,
      direction: null,
      address: address ? formatAddress(address) : null,
      connectedSinceMs: this.#startedAtMs,
      qemuVersion: version,
      accelerator,
      error: null,
    };
    return [self, ...this.peers.list()];
  }

  async status(): Promise<SiteStatus> {
    const { config, vms } = this;
    const { capacity } = config;
    const [diskUsedBytes, freeBytes] = await Promise.all([
      vms.diskUsedBytes(),
      this.#backends.disks.freeBytes(config.dataDir),
    ]);
    return {
      id: config.id,
      version: VERSION,
      pid: process.pid,
      startedAtMs: this.#startedAtMs,
      dataDir: config.dataDir,
      runtimeDir: config.runtimeDir,
      imageDir: config.imageDir,
      listen: config.link.listen ? formatAddress(config.link.listen) : null,
      gatewayPid: this.#gateway?.pid ?? null,
      qemuVersion: vms.facts.version,
      accelerator: vms.facts.accelerator,
      acceleratorReason: vms.facts.acceleratorReason,
      capacity: {
        memoryMiB: capacity.memoryMiB,
        memoryUsedMiB: vms.memoryUsedMiB(),
        diskMiB: capacity.diskMiB ?? null,
        diskUsedMiB: Math.ceil(diskUsedBytes / MIB),
        diskFreeMiB: Math.floor(freeBytes / MIB),
        vms: capacity.vms,
        vmsUsed: vms.store.count,
      },
      rssMiB: Math.round(process.memoryUsage.rss() / MIB),
    };
  }

  /** Stops serving. VMs and movers run on, and so does the gateway while a mover's link may pass through it. */
  async stop(options: { stopVms?: boolean } = {}): Promise<void> {
    await this.#api?.close();
    await this.builds.close();
    if (options.stopVms) await this.vms.stopAll();
    await this.#close(!this.migrations.hasActive);
    this.log.info('site stopped');
  }

  async #close(endGateway: boolean): Promise<void> {
    this.#closing.abort();
    await this.#api?.close();
    await this.pushes.close();
    await this.#gateway?.close(endGateway);
    await this.#relay?.[Symbol.asyncDispose]();
    await this.#peers?.close();
    await this.builds.close();
    await this.migrations.detach();
    await this.vms.detachAll();
    removeRuntimeDir(this.config.runtimeDir);
    this.#lock[Symbol.dispose]();
  }
}
