/**
 * A real center with its real nats-server, and simulated agents of many sites: what it costs to keep up with them, how long a decision takes,
 * and how soon a dead site is noticed.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { sleep } from '../base/async.ts';
import { Center } from '../center/center.ts';
import { loadCenterConfig } from '../center/config.ts';
import { makeCenter } from '../center/setup/system.ts';
import { HEARTBEAT_MS } from '../control/constants.ts';
import { LabChild } from '../lab/child.ts';
import { freePort } from '../lab/free-port.ts';
import { decide } from '../schedule/decide.ts';
import { SitePlacer } from '../schedule/placer.ts';
import { formatAddress } from '../site/config-text.ts';
import { failBench } from './kit/errors.ts';
import { benchCommand, benchMain, count, positive, say } from './kit/main.ts';
import { seededRandom } from './kit/random.ts';
import { makeRow, rowsTable, type Row } from './kit/rows.ts';
import { quantile } from './kit/stats.ts';
import { costOf } from './scale/cost.ts';
import {
  IMAGE,
  siteName,
  userName,
  vmName,
  VM_MEMORY_MIB,
  writtenSchema,
  type AgentsPlan,
} from './scale/plan.ts';

const AGENTS = fileURLToPath(new URL('scale/agents.ts', import.meta.url));
const log = pino({ level: 'silent' });

const command = benchCommand('scale', 'a center with many sites: load, decisions, dead sites')
  .option('--sites <n>', 'sites of the largest system', count, 1000)
  .option('--hosts <n>', 'hosts of each site', count, 2)
  .option('--vms <n>', 'VMs of each site', count, 100)
  .option('--steps <n>', 'systems: each a tenth of the next', count, 3)
  .option('--seconds <s>', 'how long the load is measured', positive, 20)
  .option('--decisions <n>', 'decisions that are timed', count, 2000)
  .option('--deaths <n>', 'sites that die, one after another', count, 5);

interface Options {
  sites: number;
  hosts: number;
  vms: number;
  steps: number;
  seconds: number;
  decisions: number;
  deaths: number;
}

await benchMain(command, async (signal) => {
  const options = command.opts<Options>();
  const sizes = Array.from({ length: options.steps }, (_, i) =>
    Math.max(1, Math.round(options.sites / 10 ** (options.steps - 1 - i))),
  );
  const rows: Row[] = [];
  for (const sites of sizes) rows.push(...(await measure(sites, options, signal)));
  return { rows, text: rowsTable(rows) };
});

async function measure(sites: number, options: Options, signal: AbortSignal): Promise<Row[]> {
  const name = `${sites} sites`;
  const rows: Row[] = [];
  const add = (metric: string, value: number, bar?: number): void =>
    void rows.push(
      makeRow(name, metric, value, bar === undefined ? {} : { peer: { name: 'bar', value: bar } }),
    );
  await using stack = new AsyncDisposableStack();
  const dir = await mkdtemp(join(tmpdir(), 'sc-'));
  stack.defer(() => rm(dir, { recursive: true, force: true }));
  await makeCenter({ dir, port: freePort });
  const config = loadCenterConfig(join(dir, 'center', 'center.yaml'));
  if (!('listen' in config.nats)) throw failBench('BENCH_RUN', 'the center has no nats-server of its own');
  const plan: AgentsPlan = {
    servers: [formatAddress(config.nats.listen)],
    tls: config.tls,
    sites,
    hostsPerSite: options.hosts,
    vms: sites * options.vms,
  };
  // after the center, whose nats-server they need
  const agents = await (async () => {
    await using _first = await Center.start(config, log);
    const started = stack.use(await LabChild.start([AGENTS]));
    const { records, ms } = writtenSchema.parse(await started.ask(JSON.stringify(plan)));
    say(`${name}: ${records} records written in ${ms} ms`);
    add('recordsPerS', (1000 * records) / ms);
    return started;
  })();
  signal.throwIfAborted();
  const startMs = performance.now();
  const center = stack.use(await Center.start(config, log));
  add('centerStartMs', performance.now() - startMs);
  const { fleet } = center;
  const hosts = sites * options.hosts;
  while (fleet.hosts().filter(({ alive }) => alive).length < hosts) await sleep(100, signal);
  say(`${name}: the center knows ${fleet.vms().length} VMs, ${hosts} hosts live`);
  await measureLoad(center, options.seconds, add, signal);
  await measureDecisions(center, plan, options.decisions, add, signal);
  await measureDeaths(center, agents, Math.min(options.deaths, sites), add, signal);
  return rows;
}

type Add = (metric: string, value: number, bar?: number) => void;

/** What keeping up costs the center and its nats-server. */
async function measureLoad(
  { fleet, nats }: Center,
  seconds: number,
  add: Add,
  signal: AbortSignal,
): Promise<void> {
  let heartbeats = 0;
  const unlisten = fleet.onChange(({ kind }) => {
    if (kind === 'host') heartbeats += 1;
  });
  const loop = monitorEventLoopDelay({ resolution: 10 });
  loop.enable();
  const natsPid = nats?.pid ?? 0;
  const [startMs, before, natsBefore] = [performance.now(), process.cpuUsage(), await costOf(natsPid)];
  await sleep(1000 * seconds, signal);
  const tookS = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(before);
  const natsAfter = await costOf(natsPid);
  loop.disable();
  unlisten();
  add('heartbeatsPerS', heartbeats / tookS);
  add('centerCpuPercent', (user + system) / 1e4 / tookS);
  add('centerRssMiB', process.memoryUsage().rss / 2 ** 20);
  add('natsCpuPercent', (100 * (natsAfter.cpuS - natsBefore.cpuS)) / tookS);
  add('natsRssMiB', natsAfter.rssMiB);
  add('loopDelayP99Ms', loop.percentile(99) / 1e6);
}

/** While the heartbeats go on: where a VM should be, and the room for it reserved there. */
async function measureDecisions(
  { fleet, plane }: Center,
  plan: AgentsPlan,
  decisions: number,
  add: Add,
  signal: AbortSignal,
): Promise<void> {
  const random = seededRandom(1);
  const pick = (n: number): number => Math.floor(random() * n);
  const decideMs: number[] = [];
  const placeMs: number[] = [];
  for (let i = 0; i < decisions; i += 1) {
    signal.throwIfAborted();
    const vm = pick(plan.vms);
    const record = fleet.vm(vmName(vm));
    const assignment = fleet.assignment(vmName(vm));
    if (!record || !assignment) throw failBench('BENCH_RUN', `the center does not know ${vmName(vm)}`);
    // to another site than it is at
    const there = siteName((vm + 1 + pick(plan.sites - 1)) % plan.sites);
    const startMs = performance.now();
    const { site } = decide(record, assignment, there, fleet, Date.now());
    decideMs.push(performance.now() - startMs);
    if (site !== there) throw failBench('BENCH_RUN', `${userName(vm)}'s VM was kept from ${there}`);
    const placer = new SitePlacer({ plane, fleet, site });
    const request = {
      id: `bench-${i}`,
      vm: record.vm,
      cpus: 1,
      memoryMiB: VM_MEMORY_MIB,
      diskMiB: 128,
      accelerator: null,
      image: IMAGE,
      not: [],
    };
    const { host } = await placer.place(request);
    placeMs.push(performance.now() - startMs);
    await placer.release(request.id, host);
  }
  add('decideP50Ms', quantile(decideMs, 0.5));
  add('decideP99Ms', quantile(decideMs, 0.99), 50);
  add('placeP50Ms', quantile(placeMs, 0.5));
  add('placeP99Ms', quantile(placeMs, 0.99), 50);
}

/** From a site's death to the last of its hosts counting as silent. */
async function measureDeaths(
  { fleet }: Center,
  agents: LabChild,
  deaths: number,
  add: Add,
  signal: AbortSignal,
): Promise<void> {
  const noticedMs: number[] = [];
  for (let i = 0; i < deaths; i += 1) {
    const site = siteName(i);
    await agents.ask(JSON.stringify(site));
    const diedMs = performance.now();
    await new Promise<void>((resolve, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
      const unlisten = fleet.onChange(({ kind }) => {
        if (kind !== 'silent' || fleet.hosts(site).some(({ alive }) => alive)) return;
        unlisten();
        resolve();
      });
    });
    noticedMs.push(performance.now() - diedMs);
  }
  add('deathNoticedMaxMs', Math.max(...noticedMs), 3 * HEARTBEAT_MS);
}
