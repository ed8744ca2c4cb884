import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { IMAGE, snapshot } from '../../test/kit/hosts.ts';
import type { HostSnapshot } from '../control/fleet.ts';
import type { VmRecord } from '../control/messages.ts';
import { planDrain, type Refuge } from './drain.ts';

const vm = (n: number, memoryMiB: number): VmRecord =>
  ({
    vm: `vm-${n.toString(16).padStart(12, '0')}`,
    name: `desk${n}`,
    site: 'ap1',
    host: 'h1',
    cpus: 1,
    memoryMiB,
    diskMiB: 10,
    accelerator: 'tcg',
    image: IMAGE,
  }) as VmRecord;
const options = { nowMs: 1000, counted: () => new Set<string>() };
const refuge = (site: string, hosts: HostSnapshot[]): Refuge => ({ site, strategy: 'least-loaded', hosts });
const drained = snapshot('h1', {}, { draining: true }, 'ap1');

test('the largest first, within the site while there is room, then to the center; the rest is told why', () => {
  const plan = planDrain(
    'h1',
    [vm(1, 512), vm(2, 2048), vm(3, 1024), vm(4, 4096)],
    [
      refuge('ap1', [drained, snapshot('h2', { memoryMiB: 1024 }, {}, 'ap1')]),
      refuge('center', [snapshot('c1', { memoryMiB: 2048 }, {}, 'center')]),
    ],
    options,
  );
  expect(plan.moves.map(({ vm: { name }, toHost }) => [name, toHost])).toEqual([
    ['desk2', 'h2'],
    ['desk3', 'h2'],
    ['desk1', 'c1'],
  ]);
  expect(plan.moves[0]?.reason).toMatch(/^h1 is drained; least-loaded of 1: h2 keeps/);
  expect(plan.stuck).toMatchObject([{ vm: { name: 'desk4' } }]);
  expect(plan.stuck[0]?.why).toMatch(/ap1: h1: is not to be taken; h2: 3072 MiB .*; center: c1: 2048 MiB/);
});

test('whatever comes: each VM once, none to the drained host, never more than there is', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 16, max: 3000 }), { maxLength: 20 }),
      fc.array(fc.nat(4096), { minLength: 1, maxLength: 5 }),
      (sizes, used) => {
        const vms = sizes.map((memoryMiB, i) => vm(i, memoryMiB));
        const hosts = used.map((memoryMiB, i) => snapshot(`h${i + 2}`, { memoryMiB }, {}, 'ap1'));
        const { moves, stuck } = planDrain('h1', vms, [refuge('ap1', [drained, ...hosts])], options);
        const all = [...moves.map((move) => move.vm.vm), ...stuck.map((one) => one.vm.vm)];
        expect(all.toSorted()).toEqual(vms.map((one) => one.vm).toSorted());
        for (const [i, host] of hosts.entries()) {
          const taken = moves.filter(({ toHost }) => toHost === host.host);
          const sum = taken.reduce((total, { vm: { memoryMiB } }) => total + memoryMiB, used[i] ?? 0);
          if (taken.length > 0) expect(sum).toBeLessThanOrEqual(4096);
          expect(taken.length).toBeLessThanOrEqual(8);
        }
        expect(moves.some(({ toHost }) => toHost === 'h1')).toBe(false);
      },
    ),
  );
});
