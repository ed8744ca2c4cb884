/**
 * Agents of many sites in one process, as the control plane sees them: each host's heartbeats at its rate, and the records that
 * its site has written. Lines on standard input: the plan, then sites that die.
 */
import { createInterface } from 'node:readline';
import { pino } from 'pino';
import { connectControl } from '../../control/connect.ts';
import { HEARTBEAT_MS } from '../../control/constants.ts';
import { openControlPlane, type ControlPlane } from '../../control/plane.ts';
import {
  agentsPlanSchema,
  HOST,
  hostName,
  IMAGE,
  type AgentsPlan,
  siteName,
  userName,
  VM_MEMORY_MIB,
  vmName,
} from './plan.ts';

const AT_ONCE = 500;
const say = (said: object): void => void process.stdout.write(`${JSON.stringify(said)}\n`);
const log = pino({ level: 'silent' });
const startedAtMs = Date.now();

async function write(plane: ControlPlane, plan: AgentsPlan): Promise<void> {
  const { buckets } = plane;
  const startMs = performance.now();
  const work: (() => Promise<unknown>)[] = [];
  const version = 1 as const;
  for (let s = 0; s < plan.sites; s += 1) {
    const site = siteName(s);
    work.push(() => buckets.sites.put(site, { version, site, tier: 'ap', createdAtMs: startedAtMs }));
    for (let h = 0; h < plan.hostsPerSite; h += 1) {
      const host = hostName(s, h);
      work.push(() =>
        buckets.inventories.put(`${site}.${host}`, {
          version,
          host,
          site,
          cloudapVersion: '0',
          qemuVersion: '0',
          accelerator: 'kvm',
          address: '127.0.0.1:1',
          images: [IMAGE],
          templates: [],
        }),
      );
    }
  }
  for (let i = 0; i < plan.vms; i += 1) {
    const s = i % plan.sites;
    const [site, host] = [siteName(s), hostName(s, Math.floor(i / plan.sites) % plan.hostsPerSite)];
    const vm = vmName(i);
    work.push(
      () =>
        buckets.assignments.put(vm, {
          version,
          vm,
          name: `desk-${i}`,
          user: userName(i),
          homeSite: site,
          createdAtMs: startedAtMs,
        }),
      () =>
        buckets.vms.put(`${site}.${host}.${vm}`, {
          version,
          vm,
          name: `desk-${i}`,
          host,
          site,
          status: 'running',
          generation: 1,
          ownership: 'owned',
          image: IMAGE,
          template: null,
          cpus: 1,
          memoryMiB: VM_MEMORY_MIB,
          diskMiB: 128,
          accelerator: 'kvm',
          machineType: 'pc-i440fx-7.2',
          cpuModel: 'qemu64',
          migration: null,
          updatedAtMs: Date.now(),
        }),
    );
  }
  for (let at = 0; at < work.length; at += AT_ONCE)
    await Promise.all(work.slice(at, at + AT_ONCE).map((one) => one()));
  say({ records: work.length, ms: Math.round(performance.now() - startMs) });
}

/** Each host at its own moment of the interval, as hosts that started one after another. */
function beat(plane: ControlPlane, plan: AgentsPlan, dead: ReadonlySet<string>): void {
  const perHost = plan.vms / plan.sites / plan.hostsPerSite;
  const hosts = Array.from({ length: plan.sites * plan.hostsPerSite }, (_, i) => i);
  const slices = 40;
  let slice = 0;
  let seq = 0;
  setInterval(() => {
    seq += 1;
    for (let i = slice; i < hosts.length; i += slices) {
      const s = Math.floor(i / plan.hostsPerSite);
      const site = siteName(s);
      if (dead.has(site)) continue;
      plane.publishHeartbeat({
        version: 1,
        host: hostName(s, i % plan.hostsPerSite),
        site,
        startedAtMs,
        seq,
        atMs: Date.now(),
        capacity: HOST,
        used: { cpus: perHost, memoryMiB: perHost * VM_MEMORY_MIB, diskMiB: perHost * 128, vms: perHost },
        cpuLoad: 0.2 + 0.4 * Math.random(),
        migrations: 0,
        links: [{ peer: 'center-h1', rttMs: 10, rateMbit: 100 }],
      });
    }
    slice = (slice + 1) % slices;
  }, HEARTBEAT_MS / slices);
}

say({ ready: true });
const dead = new Set<string>();
let plane: ControlPlane | undefined;
for await (const line of createInterface({ input: process.stdin })) {
  const message: unknown = JSON.parse(line);
  if (!plane) {
    const plan = agentsPlanSchema.parse(message);
    const tls = { files: plan.tls, server: 'center' };
    // one of the names that the center's certificate may use
    const connection = await connectControl('center', { servers: plan.servers, tls }, { log });
    plane = await openControlPlane(connection, { log });
    beat(plane, plan, dead);
    await write(plane, plan);
  } else {
    const site = String(message);
    dead.add(site);
    say({ stopped: site });
  }
}
process.exit(0);
