import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { heartbeat, IMAGE, inventory, snapshot } from '../../test/kit/hosts.ts';
import type { HostSnapshot } from '../control/fleet.ts';
import { strategySchema, type Assignment, type Place, type VmRecord } from '../control/messages.ts';
import { decide, type Rooms } from './decide.ts';
import { freeOf, place } from './placement.ts';

const request: Place = {
  id: 'mig-000000000001',
  vm: 'vm-000000000001',
  cpus: 1,
  memoryMiB: 512,
  diskMiB: 100,
  accelerator: 'tcg',
  image: IMAGE,
};
const none = (): ReadonlySet<string> => new Set();
const options = { strategy: 'least-loaded' as const, nowMs: 1000, counted: none };
const chosen = (hosts: HostSnapshot[], change: Partial<typeof options> = {}, ask = request): string => {
  const found = place(hosts, ask, { ...options, ...change });
  return 'refused' in found ? found.refused : found.host;
};

describe('placement on the hosts of a site', () => {
  const full = snapshot('a', { memoryMiB: 4000 });
  const half = snapshot('b', { memoryMiB: 2000 });
  const empty = snapshot('c');

  test('each strategy has its own idea', () => {
    expect(chosen([full, half, empty])).toBe('c');
    expect(chosen([full, half, empty], { strategy: 'best-fit' as never })).toBe('b');
    expect(chosen([empty, half, full], { strategy: 'first-fit' as never })).toBe('b');
  });

  test('a refusal says of each host why', () => {
    const why = chosen([
      full,
      snapshot('d', {}, { alive: false }),
      snapshot('e', {}, { inventory: inventory('s', 'e', []) }),
      snapshot('f', { vms: 8 }),
      snapshot('g', { diskMiB: 100_000 }),
      snapshot('h', {}, { inventory: { ...inventory('s', 'h'), accelerator: 'kvm' } }),
      snapshot('i', {}, { inventory: undefined }),
    ]);
    for (const part of [
      'a: 96 MiB of memory',
      'd: is silent',
      'e: does not have the image',
      'f: has no place',
    ])
      expect(why).toContain(part);
    for (const part of ['g: 0 MiB of disk', 'h: runs VMs by kvm', 'i: has not said'])
      expect(why).toContain(part);
    expect(chosen([])).toBe('it has no hosts');
    expect(chosen([empty], {}, { ...request, not: ['c'] })).toContain('not to be taken');
    expect(chosen([empty, half], {}, { ...request, only: 'b' })).toBe('b');
  });

  test('what is reserved is taken, until it ends or counts by itself; one’s own is not in the way', () => {
    const entry = { id: 'x', vm: 'vm-00000000000x', cpus: 1, memoryMiB: 3900, diskMiB: 0, expiresAtMs: 2000 };
    const reserved = snapshot('c', {}, { reservations: [entry] });
    expect(chosen([reserved])).toContain('196 MiB of memory');
    expect(chosen([reserved], { nowMs: 2000 })).toBe('c');
    expect(chosen([reserved], {}, { ...request, id: 'x' })).toBe('c');
    expect(chosen([reserved], { counted: () => new Set(['vm-00000000000x']) })).toBe('c');
  });

  test('whatever comes: never more than there is, the same each time, whatever the order', () => {
    const host = fc.record({
      used: fc.record({
        memoryMiB: fc.nat(5000),
        diskMiB: fc.nat(120_000),
        vms: fc.nat(9),
        cpus: fc.nat(20),
      }),
      load: fc.double({ min: 0, max: 1, noNaN: true }),
      alive: fc.boolean(),
    });
    fc.assert(
      fc.property(
        fc.array(host, { maxLength: 8 }),
        fc.constantFrom(...strategySchema.options),
        fc.nat(4096),
        (hosts, strategy, memoryMiB) => {
          const all = hosts.map(({ used, load, alive }, i) => {
            const beat = heartbeat('s', `h${i}`, { used, cpuLoad: load });
            return snapshot(`h${i}`, used, { alive, heartbeat: beat });
          });
          const ask = { ...request, memoryMiB };
          const found = place(all, ask, { ...options, strategy });
          expect(place(all.toReversed(), ask, { ...options, strategy })).toEqual(found);
          const fits = all.filter((one) => {
            const free = freeOf(one, ask, 1000, new Set());
            return one.alive && free.memoryMiB >= memoryMiB && free.diskMiB >= ask.diskMiB && free.vms >= 1;
          });
          if ('refused' in found) expect(fits).toEqual([]);
          else expect(fits.map(({ host: name }) => name)).toContain(found.host);
        },
      ),
    );
  });
});

describe('where a VM should be', () => {
  const vm = {
    vm: request.vm,
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
  const load = (site: string, cpuLoad: number): HostSnapshot =>
    snapshot(`${site}-h1`, {}, { heartbeat: heartbeat(site, `${site}-h1`, { cpuLoad }) }, site);
  const rooms = (hosts: HostSnapshot[]): Rooms => ({
    hosts: (site) => hosts.filter((host) => host.site === site),
    site: (site) =>
      site === 'nowhere'
        ? undefined
        : { version: 1, site, tier: 'ap', label: '', strategy: 'least-loaded', createdAtMs: 1 },
    countedBy: none,
  });
  const here = load('center', 0.1);

  test.each<[string, string | null, HostSnapshot[], Partial<Assignment>, string, RegExp]>([
    ['follows its user', 'ap1', [here, load('ap1', 0.2)], {}, 'ap1', /ann is at ap1/],
    ['is where its user is', 'center', [here], {}, 'center', /ann is at center/],
    ['comes home', null, [here], {}, 'center', /nowhere/],
    ['does not follow', 'ap1', [here, load('ap1', 0)], { follow: false }, 'center', /does not follow/],
    [
      'finds no room',
      'ap1',
      [here, snapshot('ap1-h1', { memoryMiB: 4096 }, {}, 'ap1')],
      {},
      'center',
      /no host there/,
    ],
    ['finds nobody', 'ap1', [here], {}, 'center', /it has no hosts/],
    ['finds an overloaded site', 'ap1', [here, load('ap1', 0.95)], {}, 'center', /overloaded/],
    [
      'would rather leave as well',
      'ap1',
      [load('center', 0.9), load('ap1', 0.95)],
      {},
      'ap1',
      /ann is at ap1/,
    ],
    ['is sent to a site that is none', 'nowhere', [here], {}, 'center', /no site/],
  ])('it %s', (_what, userSite, hosts, change, site, why) => {
    const decision = decide(vm, { ...assignment, ...change }, userSite, rooms(hosts), 1000);
    expect(decision.site).toBe(site);
    expect(decision.reason).toMatch(why);
  });
});
