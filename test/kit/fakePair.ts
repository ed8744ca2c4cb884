/** Two sites' migration managers in one process: fake processes below, the other site's manager behind each call. */
import { readdir } from 'node:fs/promises';
import { CloudapError } from '../../src/base/errors.ts';
import { ResidueStore } from '../../src/content/residue/store.ts';
import { changeOwnership, readOwnership, type Ownership } from '../../src/migration/ownership.ts';
import type { SiteConfig } from '../../src/site/config.ts';
import { failSite } from '../../src/site/errors.ts';
import { MigrationManager } from '../../src/site/migrate/manager.ts';
import { makeRuntimeDir, sitePaths, type SitePaths } from '../../src/site/paths.ts';
import type { PeerRpc } from '../../src/site/ports.ts';
import { VmManager } from '../../src/site/vm/manager.ts';
import { VmStore, type StoredVm } from '../../src/site/vm/store.ts';
import { fakeConfig, FakeHost, quietLog } from './fakeSite.ts';
import type { TempDir } from './tempdir.ts';

export class FakeAgent {
  readonly config: SiteConfig;
  readonly paths: SitePaths;
  readonly host: FakeHost;
  readonly vms: VmManager;
  readonly kept: ResidueStore;
  readonly migrations: MigrationManager;
  /** Calls that the other site made here. */
  readonly calls: string[] = [];
  other: FakeAgent | undefined;
  /** The agents' connection. */
  connected = true;
  readonly #closing = new AbortController();

  constructor(config: SiteConfig, host: FakeHost, store: VmStore, timeouts: { sourceMoverMs: number }) {
    this.config = config;
    this.paths = sitePaths(config);
    this.host = host;
    const backends = host.backends();
    this.vms = new VmManager({ config, backends, facts: host.facts, store, log: quietLog });
    this.kept = new ResidueStore({ folder: this.paths.residueDir, maxBytes: 2 ** 30 });
    this.migrations = new MigrationManager({
      config,
      paths: this.paths,
      backends,
      vms: this.vms,
      residue: this.kept,
      log: quietLog,
      peer: (site) => this.#peer(site),
      dialAddress: (site) => config.link.dial.find((d) => d.site === site)?.address,
      relayFor: () => undefined,
      closing: this.#closing.signal,
      timeouts: { ...timeouts, prepareMs: 5000, callMs: 5000 },
    });
  }

  #peer(site: string): PeerRpc {
    const { other } = this;
    if (other?.config.id !== site) throw failSite('SITE_UNKNOWN', site);
    if (!this.connected) throw failSite('SITE_NOT_CONNECTED', site);
    return {
      call: async (method, params, options) => {
        const sent: unknown = JSON.parse(JSON.stringify(params));
        other.calls.push(method);
        try {
          const answer = await other.serve(this.config.id, method, sent, options?.signal);
          return JSON.parse(JSON.stringify(answer)) as unknown;
        } catch (error) {
          const { code, message, remedy, fields } = error as CloudapError;
          throw new CloudapError(code, message, remedy, { fields: { ...fields } });
        }
      },
    };
  }

  serve(caller: string, method: string, params: unknown, signal?: AbortSignal): Promise<unknown> {
    if (method === 'migration.prepare') return this.migrations.prepare(caller, params, signal);
    if (method === 'migration.abort') return this.migrations.abort(caller, params);
    return this.migrations.outcome(caller, params);
  }

  get vm(): StoredVm {
    const [vm] = this.vms.store.list();
    if (!vm) throw new Error(`${this.config.id} has no VM`);
    return vm;
  }

  ownership(): Promise<Ownership> {
    return readOwnership(this.vm.paths.ownershipFile);
  }

  /** What a mover does to the ownership file. */
  async setOwnership(change: Partial<Omit<Ownership, 'version' | 'vmId'>>): Promise<void> {
    const now = await this.ownership();
    const { owner, generation, state, peer } = { ...now, ...change };
    await changeOwnership(this.vm.paths.ownershipFile, now, { owner, generation, state, peer });
  }

  /** Everything on disk that speaks of a VM or a running migration; empty where a site is clean. */
  async residue(): Promise<string[]> {
    const { vmsDir, migrationsDir, runtimeDir } = this.paths;
    const active = (await readdir(migrationsDir)).filter((name) => name.endsWith('.active.json'));
    const sockets = await Promise.all(['v', 'm', 'link'].map((name) => readdir(`${runtimeDir}/${name}`)));
    return [...(await readdir(vmsDir)), ...active, ...sockets.flat()];
  }

  /** The agent is gone; its fake processes are not. */
  kill(): void {
    this.#closing.abort();
  }
}

export async function startAgent(
  config: SiteConfig,
  host: FakeHost,
  sourceMoverMs = 60_000,
): Promise<FakeAgent> {
  makeRuntimeDir(config.runtimeDir);
  const store = await VmStore.open(sitePaths(config), () => {});
  const agent = new FakeAgent(config, host, store, { sourceMoverMs });
  await agent.vms.adoptAll();
  await agent.migrations.recover();
  return agent;
}

/** `center` listens and has a running VM; `ap1` dials it. */
export async function fakePair(
  dir: TempDir,
  options: { sourceMoverMs?: number } = {},
): Promise<{ center: FakeAgent; ap1: FakeAgent }> {
  const listening = await fakeConfig(dir, 'center', '127.0.0.1:7411');
  const dialling = await fakeConfig(dir, 'ap1');
  dialling.link = { relay: false, dial: [{ site: 'center', address: { host: '127.0.0.1', port: 7411 } }] };
  const center = await startAgent(listening, new FakeHost(), options.sourceMoverMs);
  const ap1 = await startAgent(dialling, new FakeHost(), options.sourceMoverMs);
  introduce(center, ap1);
  await center.vms.start(await center.vms.create({ name: 'desk', image: 'fake' }));
  return { center, ap1 };
}

export function introduce(a: FakeAgent, b: FakeAgent): void {
  a.other = b;
  b.other = a;
}
