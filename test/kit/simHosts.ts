import { sleep } from '../../src/base/async.ts';
import { Drains } from '../../src/center/drains.ts';
import { Follow } from '../../src/center/follow.ts';
import { Moves } from '../../src/center/moves/moves.ts';
import { Fleet } from '../../src/control/fleet.ts';
import type { Heartbeat, VmRecord } from '../../src/control/messages.ts';
import type { ControlPlane } from '../../src/control/plane.ts';
import { method, serveRequests } from '../../src/control/requests.ts';
import { hostSubject } from '../../src/control/subjects.ts';
import { migrateSchema } from '../../src/host/messages.ts';
import { SiteAgent } from '../../src/host/site-agent.ts';
import { MoveQueue } from '../../src/schedule/queue.ts';
import type { MigrationView } from '../../src/site/api/messages.ts';
import { heartbeat, inventory, vmRecord } from './hosts.ts';
import { silent, testNats, type TestNats } from './nats.ts';

const BEAT_MS = 50;

export interface SimHost {
  readonly site: string;
  readonly host: string;
  readonly memoryMiB?: number;
  readonly cpuLoad?: number;
  /** Round trips to other hosts, in ms. */
  readonly rtt?: Readonly<Record<string, number>>;
}

/**
 * What the center runs, over a real nats-server, with hosts that only talk: they beat, keep the records of their VMs and hand
 * them over when asked, but have no QEMU.
 */
export class SimSystem implements AsyncDisposable {
  readonly plane: ControlPlane;
  readonly fleet: Fleet;
  readonly moves: Moves;
  drains: Drains;
  readonly #nats: TestNats;
  readonly #hosts: ReadonlyMap<string, SimHost>;
  readonly #vms = new Map<string, VmRecord>();
  readonly #stop = new AbortController();
  readonly #stack: AsyncDisposableStack;
  #seq = 0;

  private constructor(
    parts: Pick<SimSystem, 'plane' | 'fleet' | 'moves' | 'drains'> & {
      nats: TestNats;
      hosts: readonly SimHost[];
    },
    stack: AsyncDisposableStack,
  ) {
    ({ plane: this.plane, fleet: this.fleet, moves: this.moves, drains: this.drains } = parts);
    this.#nats = parts.nats;
    this.#hosts = new Map(parts.hosts.map((host) => [host.host, host]));
    this.#stack = stack;
  }

  static async start(hosts: readonly SimHost[]): Promise<SimSystem> {
    await using stack = new AsyncDisposableStack();
    const nats = stack.use(await testNats());
    const plane = await nats.plane('center', true);
    for (const site of new Set(hosts.map((host) => host.site)))
      await plane.buckets.sites.create(site, { version: 1, site, tier: 'ap', createdAtMs: 1 });
    for (const { site, host } of hosts)
      await plane.buckets.inventories.put(`${site}.${host}`, inventory(site, host));
    const fleet = await Fleet.open(plane, silent);
    stack.defer(() => fleet.close());
    for (const site of new Set(hosts.map((host) => host.site)))
      stack.use(SiteAgent.serve(await nats.plane(`agent-${site}`, true), fleet, site, silent));
    const moves = new Moves({
      plane,
      log: silent,
      turns: new MoveQueue({ perLink: 2, perHost: 2 }),
      locate: (vm) => fleet.vm(vm),
      siteKnown: (site) => fleet.site(site) !== undefined,
    });
    stack.defer(() => moves.close());
    const drains = Drains.start({ plane, fleet, moves, center: 'center', log: silent });
    const system = new SimSystem({ plane, fleet, moves, drains, nats, hosts }, stack.move());
    await system.#serve();
    return system;
  }

  async #serve(): Promise<void> {
    const said = await this.#nats.plane('hosts', true);
    for (const { host } of this.#hosts.values()) {
      const migrate = method(migrateSchema, async ({ move, vm, to }) => this.#migrate(move, vm, to));
      this.#stack.use(
        serveRequests(said.connection, hostSubject(host, '').slice(0, -1), { migrate }, () => {}),
      );
    }
    const beating = (async () => {
      while (!this.#stop.signal.aborted) {
        this.#seq += 1;
        for (const host of this.#hosts.values()) said.publishHeartbeat(this.#beat(host));
        await sleep(BEAT_MS, this.#stop.signal).catch(() => {});
      }
    })();
    this.#stack.defer(() => beating);
    this.#stack.defer(() => this.#stop.abort());
    await said.connection.flush();
    while (this.fleet.hosts().length < this.#hosts.size) await sleep(10);
  }

  #beat({ site, host, memoryMiB = 1024, cpuLoad = 0, rtt = {} }: SimHost): Heartbeat {
    const here = [...this.#vms.values()].filter((vm) => vm.host === host);
    const memory = here.reduce((sum, vm) => sum + vm.memoryMiB, 0);
    return heartbeat(site, host, {
      seq: this.#seq,
      atMs: Date.now(),
      capacity: { cpus: 8, memoryMiB, diskMiB: 100_000, vms: 64 },
      used: { cpus: here.length, memoryMiB: memory, diskMiB: 0, vms: here.length },
      cpuLoad,
      links: Object.entries(rtt).map(([peer, rttMs]) => ({ peer, rttMs, rateMbit: null })),
    });
  }

  /** A VM on a host, and whose it is. */
  async vm(
    name: string,
    host: string,
    options: { memoryMiB?: number; user?: string; home?: string } = {},
  ): Promise<string> {
    const { memoryMiB = 128, user, home = 'center' } = options;
    const vm = `vm-${(this.#vms.size + 1).toString(16).padStart(12, '0')}`;
    const site = this.#hosts.get(host)?.site ?? '';
    if (user !== undefined)
      await this.plane.buckets.assignments.put(vm, {
        version: 1,
        vm,
        name,
        user,
        homeSite: home,
        createdAtMs: 1,
      });
    const record = { ...vmRecord(vm), name, host, site, memoryMiB, updatedAtMs: Date.now() };
    await this.#write(record);
    while (this.fleet.vm(vm)?.host !== host) await sleep(5);
    return vm;
  }

  async #write(record: VmRecord): Promise<void> {
    this.#vms.set(record.vm, record);
    await this.plane.buckets.vms.put(`${record.site}.${record.host}.${record.vm}`, record);
  }

  async #migrate(move: string, id: string, to: string): Promise<MigrationView> {
    const vm = this.#vms.get(id);
    const target = this.#hosts.get(to);
    if (!vm || !target) throw new Error(`${id} to ${to}`);
    const next = {
      ...vm,
      host: to,
      site: target.site,
      generation: vm.generation + 1,
      updatedAtMs: Date.now(),
    };
    await this.#write(next);
    await this.plane.buckets.vms.remove(`${vm.site}.${vm.host}.${id}`);
    while (this.fleet.vm(id)?.host !== to) await sleep(5);
    return {
      migrationId: move,
      role: 'source',
      vmId: id,
      vmName: vm.name,
      peer: to,
      state: 'completed',
      active: false,
      initiatedAtMs: 1,
      link: null,
      progress: null,
      error: null,
      record: null,
    };
  }

  /** Follows users from now on. */
  follow(): Follow {
    const follow = Follow.start({ fleet: this.fleet, moves: this.moves, log: silent });
    this.#stack.defer(() => follow.close());
    return follow;
  }

  /** A user is somewhere else: what the tracker does. */
  async userAt(follow: Follow, user: string, site: string | null): Promise<void> {
    const sinceMs = Date.now();
    await this.plane.buckets.whereabouts.put(user, { version: 1, user, site, device: 'phone', sinceMs });
    follow.moved(user);
  }

  /** As a center that was started anew does. */
  async restartDrains(): Promise<void> {
    await this.drains.close();
    this.drains = Drains.start({
      plane: this.plane,
      fleet: this.fleet,
      moves: this.moves,
      center: 'center',
      log: silent,
    });
  }

  /** Hosts of these VMs. */
  where(...vms: string[]): (string | undefined)[] {
    return vms.map((vm) => this.fleet.vm(vm)?.host);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.drains.close();
    await this.#stack.disposeAsync();
  }
}
