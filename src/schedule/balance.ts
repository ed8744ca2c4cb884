import type { Resources } from '../control/messages.ts';
import {
  BALANCE_GAIN_MIN,
  BALANCE_MOVES_MAX,
  BALANCE_SPREAD_START,
  BALANCE_SPREAD_STOP,
} from './constants.ts';

/** A host of the site that is to be balanced. */
export interface BalanceHost {
  readonly host: string;
  readonly capacity: Resources;
  /** With everything that is promised. */
  readonly used: Resources;
  /** Processors that are busy. */
  readonly cpuBusy: number;
  /** Undefined: it may be given a VM; else why not. */
  readonly shut: string | undefined;
}

/** A VM of one of them. */
export interface BalanceVm {
  readonly vm: string;
  readonly name: string;
  readonly host: string;
  readonly memoryMiB: number;
  readonly diskMiB: number;
  /** Processors that it keeps busy. */
  readonly cpuBusy: number;
  /** It may go to this host, as far as its image and accelerator are concerned. */
  readonly runsAt: (host: string) => boolean;
}

export interface PlannedMove {
  readonly vm: string;
  readonly name: string;
  readonly from: string;
  readonly to: string;
  /** For people. */
  readonly reason: string;
}

interface Load {
  readonly memoryMiB: number;
  readonly diskMiB: number;
  readonly vms: number;
  readonly cpuBusy: number;
}

/** How full a host is, 0 to 1 and above: the share in use of what is scarcest there. */
export function fullness({ capacity }: BalanceHost, load: Load): number {
  const share = (used: number, whole: number): number => (whole > 0 ? used / whole : 1);
  return Math.max(
    share(load.memoryMiB, capacity.memoryMiB),
    share(load.vms, capacity.vms),
    share(load.cpuBusy, capacity.cpus),
  );
}

/**
 * Which VMs should go from one host of a site to another one, in this order. It begins when the fullest host is
 * BALANCE_SPREAD_START fuller than the emptiest, and then goes on down to BALANCE_SPREAD_STOP, so that a load that hovers about
 * one mark moves nothing to and fro. Each move makes the fuller of its two hosts, as they are afterwards, emptier than the
 * fuller was before by BALANCE_GAIN_MIN at least: so no sequence of moves leads back to where it began. `vms` are those that
 * may be moved.
 */
export function balance(
  hosts: readonly BalanceHost[],
  vms: readonly BalanceVm[],
  movesMax = BALANCE_MOVES_MAX,
): PlannedMove[] {
  const loads = new Map<string, Load>(
    hosts.map(({ host, used, cpuBusy }) => [
      host,
      { memoryMiB: used.memoryMiB, diskMiB: used.diskMiB, vms: used.vms, cpuBusy },
    ]),
  );
  const at = new Map(vms.map((vm) => [vm.vm, vm.host]));
  const moves: PlannedMove[] = [];
  while (moves.length < movesMax) {
    const full = hosts.map((host) => ({ host, is: fullness(host, loadOf(loads, host)) }));
    const emptiest = Math.min(...full.filter(({ host }) => !host.shut).map(({ is }) => is));
    const mark = moves.length === 0 ? BALANCE_SPREAD_START : BALANCE_SPREAD_STOP;
    // the fullest first; the next one only if nothing can be done for it
    full.sort((a, b) => b.is - a.is || (a.host.host < b.host.host ? -1 : 1));
    let best: Step | undefined;
    for (const { host, is } of full) {
      if (is - emptiest < mark) break;
      best = bestStep(
        host,
        vms.filter(({ vm }) => at.get(vm) === host.host && !moves.some((move) => move.vm === vm)),
        hosts,
        loads,
      );
      if (best) break;
    }
    if (!best) return moves;
    const { vm, from, to } = best;
    loads.set(from.host, best.fromAfter);
    loads.set(to.host, best.toAfter);
    at.set(vm.vm, to.host);
    moves.push({ vm: vm.vm, name: vm.name, from: from.host, to: to.host, reason: best.reason });
  }
  return moves;
}

interface Step {
  readonly vm: BalanceVm;
  readonly from: BalanceHost;
  readonly to: BalanceHost;
  readonly fromAfter: Load;
  readonly toAfter: Load;
  readonly gain: number;
  /** How full the target is afterwards. */
  readonly taken: number;
  readonly reason: string;
}

/** The move away from a host that helps most; among equals to the emptiest, and of the least memory, which is the cheapest. */
function bestStep(
  from: BalanceHost,
  vms: readonly BalanceVm[],
  hosts: readonly BalanceHost[],
  loads: ReadonlyMap<string, Load>,
): Step | undefined {
  const before = loadOf(loads, from);
  const fromBefore = fullness(from, before);
  let best: Step | undefined;
  for (const vm of vms) {
    const fromAfter = changed(before, vm, -1);
    for (const to of hosts) {
      if (to === from || to.shut !== undefined || !vm.runsAt(to.host)) continue;
      const there = loadOf(loads, to);
      const toAfter = changed(there, vm, 1);
      if (!fits(to, toAfter)) continue;
      const [left, taken] = [fullness(from, fromAfter), fullness(to, toAfter)];
      const gain = fromBefore - Math.max(left, taken);
      if (gain < BALANCE_GAIN_MIN) continue;
      const reason = `${from.host} is ${percent(fromBefore)} full and ${to.host} ${percent(fullness(to, there))}: ${percent(left)} and ${percent(taken)} afterwards`;
      const step: Step = { vm, from, to, fromAfter, toAfter, gain, taken, reason };
      if (!best || isBetter(step, best)) best = step;
    }
  }
  return best;
}

function isBetter(a: Step, b: Step): boolean {
  if (a.gain !== b.gain) return a.gain > b.gain;
  if (a.taken !== b.taken) return a.taken < b.taken;
  if (a.vm.memoryMiB !== b.vm.memoryMiB) return a.vm.memoryMiB < b.vm.memoryMiB;
  return a.vm.vm + a.to.host < b.vm.vm + b.to.host;
}

const changed = (load: Load, vm: BalanceVm, by: 1 | -1): Load => ({
  memoryMiB: load.memoryMiB + by * vm.memoryMiB,
  diskMiB: load.diskMiB + by * vm.diskMiB,
  vms: load.vms + by,
  cpuBusy: Math.max(0, load.cpuBusy + by * vm.cpuBusy),
});

/** Processors may be overcommitted; memory, disk and places may not. */
const fits = ({ capacity }: BalanceHost, load: Load): boolean =>
  load.memoryMiB <= capacity.memoryMiB && load.diskMiB <= capacity.diskMiB && load.vms <= capacity.vms;

const loadOf = (loads: ReadonlyMap<string, Load>, { host }: BalanceHost): Load =>
  loads.get(host) ?? { memoryMiB: 0, diskMiB: 0, vms: 0, cpuBusy: 0 };

const percent = (share: number): string => `${Math.round(100 * share)} %`;
