import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { balance, fullness, type BalanceHost, type BalanceVm, type PlannedMove } from './balance.ts';
import { BALANCE_GAIN_MIN, BALANCE_MOVES_MAX, BALANCE_SPREAD_START } from './constants.ts';

const CAPACITY = { cpus: 8, memoryMiB: 4096, diskMiB: 100_000, vms: 16 };
const anywhere = (): boolean => true;

interface Spec {
  readonly memoryMiB: number;
  readonly cpuBusy: number;
}

/** Hosts with these VMs; `shut` hosts take none. */
function siteOf(all: readonly (readonly Spec[])[], shut: readonly number[] = []) {
  const vms: BalanceVm[] = all.flatMap((list, h) =>
    list.map((spec, i) => ({
      ...spec,
      vm: `vm-${h}-${i}`,
      name: `desk-${h}-${i}`,
      host: `h${h}`,
      diskMiB: 10,
      runsAt: anywhere,
    })),
  );
  return { vms, hosts: hostsOf(vms, all.length, shut) };
}

function hostsOf(vms: readonly BalanceVm[], count: number, shut: readonly number[] = []): BalanceHost[] {
  return Array.from({ length: count }, (_, h) => {
    const here = vms.filter(({ host }) => host === `h${h}`);
    const sum = (of: (vm: BalanceVm) => number): number => here.reduce((total, vm) => total + of(vm), 0);
    return {
      host: `h${h}`,
      capacity: CAPACITY,
      used: {
        cpus: here.length,
        memoryMiB: sum((vm) => vm.memoryMiB),
        diskMiB: sum((vm) => vm.diskMiB),
        vms: here.length,
      },
      cpuBusy: sum((vm) => vm.cpuBusy),
      shut: shut.includes(h) ? 'is being drained' : undefined,
    };
  });
}

const after = (vms: readonly BalanceVm[], moves: readonly PlannedMove[]): BalanceVm[] =>
  vms.map((vm) => ({ ...vm, host: moves.find((move) => move.vm === vm.vm)?.to ?? vm.host }));

const levels = (hosts: readonly BalanceHost[]): number[] =>
  hosts.map((host) => fullness(host, { ...host.used, cpuBusy: host.cpuBusy })).toSorted((a, b) => b - a);

const idle = (memoryMiB: number): Spec => ({ memoryMiB, cpuBusy: 0 });

describe('evening out the hosts of a site', () => {
  test('the fullest gives to the emptiest, with the reason', () => {
    const { hosts, vms } = siteOf([[idle(1024), idle(1024), idle(1024)], []]);
    expect(balance(hosts, vms)).toEqual([
      {
        vm: 'vm-0-0',
        name: 'desk-0-0',
        from: 'h0',
        to: 'h1',
        reason: 'h0 is 75 % full and h1 0 %: 50 % and 25 % afterwards',
      },
    ]);
  });

  test('busy processors count like memory', () => {
    const busy = { memoryMiB: 64, cpuBusy: 3 };
    const { hosts, vms } = siteOf([
      [busy, busy],
      [idle(64), idle(64)],
    ]);
    expect(balance(hosts, vms)).toMatchObject([{ from: 'h0', to: 'h1' }]);
  });

  test.each<[string, Spec[][], number[]]>([
    ['they are near each other', [[idle(1024), idle(256)], [idle(512)]], []],
    ['one large VM is all that there is', [[idle(3000)], []], []],
    ['the other host takes none', [[idle(1024), idle(1024), idle(1024)], []], [1]],
    ['nobody has any', [[], []], []],
  ])('nothing moves where %s', (_what, all, shut) => {
    const { hosts, vms } = siteOf(all, shut);
    expect(balance(hosts, vms)).toEqual([]);
  });

  test('a VM goes to no host that cannot run it', () => {
    const { hosts, vms } = siteOf([[idle(1024), idle(1024), idle(1024)], []]);
    expect(
      balance(
        hosts,
        vms.map((vm) => ({ ...vm, runsAt: (host) => host !== 'h1' })),
      ),
    ).toEqual([]);
  });

  const spec = fc.record({
    memoryMiB: fc.integer({ min: 16, max: 2048 }),
    cpuBusy: fc.double({ min: 0, max: 2, noNaN: true }),
  });
  const site = fc
    .array(fc.array(spec, { maxLength: 7 }), { minLength: 1, maxLength: 6 })
    .filter((all) => all.every((list) => list.reduce((sum, { memoryMiB }) => sum + memoryMiB, 0) <= 4096));

  test('whatever comes: bounded, never too much for a host, each move a gain, and it comes to rest', () => {
    fc.assert(
      fc.property(site, fc.array(fc.nat(5), { maxLength: 2 }), (all, shut) => {
        let { vms, hosts } = siteOf(all, shut);
        let rounds = 0;
        for (;;) {
          const moves = balance(hosts, vms);
          expect(moves.length).toBeLessThanOrEqual(BALANCE_MOVES_MAX);
          if (moves.length === 0) break;
          expect(new Set(moves.map(({ vm }) => vm)).size).toBe(moves.length);
          for (const [i, move] of moves.entries()) {
            const before = hostsOf(after(vms, moves.slice(0, i)), all.length, shut);
            const next = hostsOf(after(vms, moves.slice(0, i + 1)), all.length, shut);
            const at = (list: BalanceHost[], id: string): number => {
              const host = list.find((one) => one.host === id) as BalanceHost;
              return fullness(host, { ...host.used, cpuBusy: host.cpuBusy });
            };
            expect(Math.max(at(next, move.from), at(next, move.to))).toBeLessThanOrEqual(
              at(before, move.from) - BALANCE_GAIN_MIN + 1e-9,
            );
            expect(hosts.find(({ host }) => host === move.to)?.shut).toBeUndefined();
          }
          const [was] = [levels(hosts)];
          vms = after(vms, moves);
          hosts = hostsOf(vms, all.length, shut);
          for (const { used } of hosts) {
            const arrived = used.memoryMiB;
            expect(arrived).toBeLessThanOrEqual(CAPACITY.memoryMiB);
          }
          // the levels, fullest first, only ever fall: so it can never come back to where it was
          const is = levels(hosts);
          const at = is.findIndex((level, i) => Math.abs(level - (was[i] ?? 0)) > 1e-9);
          expect(is[at]).toBeLessThan(was[at] ?? 0);
          rounds += 1;
          expect(rounds).toBeLessThan(100);
        }
      }),
    );
  });

  test('a load that hovers moves nothing to and fro', () => {
    fc.assert(
      fc.property(
        fc.array(spec, { minLength: 2, maxLength: 10 }),
        fc.array(fc.double({ min: -1, max: 1, noNaN: true }), { minLength: 20, maxLength: 20 }),
        (list, noise) => {
          let { vms } = siteOf([list.map(({ cpuBusy }) => ({ memoryMiB: 64, cpuBusy })), []]);
          // at rest first
          for (;;) {
            const moves = balance(hostsOf(vms, 2), vms);
            if (moves.length === 0) break;
            vms = after(vms, moves);
          }
          const [top = 0, low = 0] = levels(hostsOf(vms, 2));
          // then each host's load wavers by less than what the marks are apart from what is so now
          const room = (BALANCE_SPREAD_START - (top - low)) / 2;
          if (room <= 0) return;
          for (const wave of noise) {
            const hosts = hostsOf(vms, 2).map((host, i) => ({
              ...host,
              cpuBusy: Math.max(0, host.cpuBusy + (i === 0 ? 1 : -1) * wave * room * 0.99 * CAPACITY.cpus),
            }));
            const spread = levels(hosts);
            if ((spread[0] ?? 0) - (spread[1] ?? 0) < BALANCE_SPREAD_START)
              expect(balance(hosts, vms)).toEqual([]);
          }
        },
      ),
    );
  });
});
