import { describe, expect, test } from 'vitest';
import { heartbeat, IMAGE, snapshot } from '../../test/kit/hosts.ts';
import type { HostSnapshot } from '../control/fleet.ts';
import type { Assignment, VmRecord } from '../control/messages.ts';
import { decide, type Rooms } from './decide.ts';

const vm = {
  vm: 'vm-000000000001',
  name: 'desk',
  site: 'center',
  host: 'center-h1',
  cpus: 1,
  memoryMiB: 512,
  diskMiB: 100,
  accelerator: 'tcg',
  image: IMAGE,
} as VmRecord;
const assignment: Assignment = {
  version: 1,
  vm: vm.vm,
  name: 'desk',
  user: 'ann',
  homeSite: 'center',
  follow: true,
  createdAtMs: 1,
};

/** A site of one host: its load, and what it has measured to others, in ms. */
const site = (id: string, cpuLoad: number, rtt: Readonly<Record<string, number>> = {}): HostSnapshot => {
  const links = Object.entries(rtt).map(([peer, rttMs]) => ({ peer: `${peer}-h1`, rttMs, rateMbit: null }));
  return snapshot(`${id}-h1`, {}, { heartbeat: heartbeat(id, `${id}-h1`, { cpuLoad, links }) }, id);
};
const full = (found: HostSnapshot): HostSnapshot => {
  const { heartbeat: beat } = found;
  return { ...found, heartbeat: { ...beat, used: { ...beat.used, memoryMiB: 4096 } } };
};
const rooms = (hosts: readonly HostSnapshot[]): Rooms => ({
  hosts: (id) => hosts.filter((host) => host.site === id),
  host: (id) => hosts.find(({ host }) => host === id),
  site: (id) =>
    id === 'mars'
      ? undefined
      : {
          version: 1,
          site: id,
          tier: 'ap',
          label: '',
          strategy: 'least-loaded',
          draining: [],
          createdAtMs: 1,
        },
  countedBy: () => new Set(),
});
const center = site('center', 0.1);

interface Case {
  readonly user: string | null;
  readonly hosts: readonly HostSnapshot[];
  readonly at?: string;
  readonly change?: Partial<Assignment>;
}

describe('where a VM should be', () => {
  test.each<[string, Case, string, RegExp]>([
    ['follows its user', { user: 'ap1', hosts: [center, site('ap1', 0.2)] }, 'ap1', /^ann is at ap1$/],
    ['is where its user is', { user: 'center', hosts: [center] }, 'center', /^ann is at center$/],
    [
      'stays with its user even under load',
      { user: 'ap1', at: 'ap1', hosts: [center, site('ap1', 1)] },
      'ap1',
      /^ann is at ap1$/,
    ],
    ['comes home', { user: null, at: 'ap1', hosts: [center, site('ap1', 0)] }, 'center', /nowhere/],
    [
      'does not follow',
      { user: 'ap1', at: 'ap1', hosts: [center, site('ap1', 0)], change: { follow: false } },
      'center',
      /does not follow/,
    ],
    [
      'finds no room',
      { user: 'ap1', hosts: [center, full(site('ap1', 0))] },
      'center',
      /^stays at center: ann is at ap1, but no host there can take it \(ap1-h1: 0 MiB/,
    ],
    ['finds nobody', { user: 'ap1', hosts: [center] }, 'center', /it has no hosts/],
    [
      'finds a host that is being drained only',
      { user: 'ap1', hosts: [center, { ...site('ap1', 0), draining: true }] },
      'center',
      /being drained/,
    ],
    [
      'finds an overloaded site',
      { user: 'ap1', hosts: [center, site('ap1', 0.95)] },
      'center',
      /^stays at center: .* ap1 is overloaded \(95 %\) and center is not \(10 %\)/,
    ],
    [
      'would rather be with its user when both are overloaded',
      { user: 'ap1', hosts: [site('center', 0.9), site('ap1', 0.95)] },
      'ap1',
      /^ann is at ap1$/,
    ],
    ['is sent to a site that is none', { user: 'mars', hosts: [center] }, 'center', /no site mars/],
    [
      'goes elsewhere: much nearer to its user than where it is',
      {
        user: 'ap1',
        hosts: [center, full(site('ap1', 0, { center: 40, ap2: 4, ap3: 8 })), site('ap2', 0), site('ap3', 0)],
      },
      'ap2',
      /ann is at ap1, but no host there can take it .*; ap2 is 4 ms from there, center 40 ms/,
    ],
    [
      'goes elsewhere also where the user’s site is overloaded',
      { user: 'ap1', hosts: [center, site('ap1', 0.95, { center: 40, ap2: 4 }), site('ap2', 0)] },
      'ap2',
      /ap1 is overloaded .*; ap2 is 4 ms/,
    ],
    [
      'goes to the next best where the nearest has no room, either',
      {
        user: 'ap1',
        hosts: [
          center,
          full(site('ap1', 0, { center: 40, ap2: 4, ap3: 8 })),
          full(site('ap2', 0)),
          site('ap3', 0),
        ],
      },
      'ap3',
      /ap3 is 8 ms/,
    ],
    [
      'goes to no third place that is busy itself',
      { user: 'ap1', hosts: [center, full(site('ap1', 0, { center: 40, ap2: 4 })), site('ap2', 0.8)] },
      'center',
      /^stays/,
    ],
    [
      'does not move for a third place that is hardly nearer',
      { user: 'ap1', hosts: [center, full(site('ap1', 0, { center: 40, ap2: 30 })), site('ap2', 0)] },
      'center',
      /^stays/,
    ],
    [
      'does not move for a few milliseconds',
      { user: 'ap1', hosts: [center, full(site('ap1', 0, { center: 4, ap2: 1 })), site('ap2', 0)] },
      'center',
      /^stays/,
    ],
    [
      'stays at the third place while nothing is better',
      {
        user: 'ap1',
        at: 'ap2',
        hosts: [center, full(site('ap1', 0, { center: 40, ap2: 4 })), site('ap2', 0.3)],
      },
      'ap2',
      /^stays at ap2/,
    ],
    [
      'goes to its user from the third place once there is room',
      { user: 'ap1', at: 'ap2', hosts: [center, site('ap1', 0, { center: 40, ap2: 4 }), site('ap2', 0)] },
      'ap1',
      /^ann is at ap1$/,
    ],
    [
      'goes home from a place that is overloaded',
      { user: 'ap1', at: 'ap2', hosts: [center, full(site('ap1', 0)), site('ap2', 0.95)] },
      'center',
      /ap2 is overloaded \(95 %\) and its home center is not \(10 %\)/,
    ],
    [
      'does not go home where that is busy itself',
      { user: 'ap1', at: 'ap2', hosts: [site('center', 0.75), full(site('ap1', 0)), site('ap2', 0.95)] },
      'ap2',
      /^stays/,
    ],
  ])('it %s', (_what, { user, hosts, at = 'center', change }, where, why) => {
    const record = { ...vm, site: at, host: `${at}-h1` };
    const decision = decide(record, { ...assignment, ...change }, user, rooms(hosts), 1000);
    expect(decision.site).toBe(where);
    expect(decision.reason).toMatch(why);
    // it is where it was sent: nothing sends it on
    const there = { ...record, site: where, host: `${where}-h1` };
    expect(decide(there, { ...assignment, ...change }, user, rooms(hosts), 1000).site).toBe(where);
  });
});
