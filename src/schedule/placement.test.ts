import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { heartbeat, IMAGE, inventory, snapshot } from '../../test/kit/hosts.ts';
import type { HostSnapshot } from '../control/fleet.ts';
import { strategySchema, type Place } from '../control/messages.ts';
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
      snapshot('j', {}, { draining: true }),
    ]);
    for (const part of [
      'a: 96 MiB of memory',
      'd: is silent',
      'e: does not have the image',
      'f: has no place',
    ])
      expect(why).toContain(part);
    for (const part of ['g: 0 MiB of disk', 'h: runs VMs by kvm', 'i: has not said', 'j: is being'])
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
