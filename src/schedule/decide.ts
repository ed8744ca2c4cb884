import type { Fleet } from '../control/fleet.ts';
import type { Assignment, VmRecord } from '../control/messages.ts';
import { NEARER_BY_MS, NEARER_FACTOR, OVERLOADED_CPU, RELIEVED_CPU } from './constants.ts';
import { place } from './placement.ts';

/** Where a VM should be, and why, for people. */
export interface Decision {
  readonly site: string;
  readonly reason: string;
}

export type Rooms = Pick<Fleet, 'hosts' | 'host' | 'site' | 'countedBy'>;

/**
 * Where a VM should be (the paper's section III, and its future work: the user's location and the loads of AP and center).
 * It is wanted at its user's site or, if it does not follow or the user is nowhere, at its home. The first rule that
 * holds decides:
 *
 *   1. It is where it is wanted: it stays.
 *   2. The site that it is wanted at can take it, and is not overloaded while the present one is not: it goes there.
 *   3. Another site that can take it is much nearer to its user, as measured: it goes there.
 *   4. The present site is overloaded, and the VM's home is not and can take it: it goes home.
 *   5. It stays.
 *
 * Nothing goes to and fro: overload has two marks, and rule 3 at least halves the distance each time.
 */
export function decide(
  vm: VmRecord,
  assignment: Assignment,
  userSite: string | null,
  rooms: Rooms,
  nowMs: number,
): Decision {
  const follows = assignment.follow && userSite !== null;
  const wanted = follows ? userSite : assignment.homeSite;
  const cause = follows
    ? `${assignment.user} is at ${wanted}`
    : assignment.follow
      ? `${assignment.user} is nowhere, and ${wanted} is its home`
      : `it does not follow, and ${wanted} is its home`;
  if (wanted === vm.site) return { site: vm.site, reason: cause };
  const against = whyNot(vm, wanted, rooms, nowMs);
  if (against === undefined) return { site: wanted, reason: cause };
  const but = `${cause}, but ${against}`;
  return (
    nearer(vm, wanted, follows, but, rooms, nowMs) ??
    relieved(vm, assignment, but, rooms, nowMs) ?? {
      site: vm.site,
      reason: `stays at ${vm.site}: ${but}`,
    }
  );
}

/** Why a VM should not go to a site; undefined: it may. */
function whyNot(vm: VmRecord, site: string, rooms: Rooms, nowMs: number): string | undefined {
  const refused = refusalOf(vm, site, rooms, nowMs);
  if (refused !== undefined) return refused;
  const [there, here] = [loadOf(rooms, site), loadOf(rooms, vm.site)];
  return there >= OVERLOADED_CPU && here < RELIEVED_CPU
    ? `${site} is overloaded (${percent(there)}) and ${vm.site} is not (${percent(here)})`
    : undefined;
}

function refusalOf(vm: VmRecord, site: string, rooms: Rooms, nowMs: number): string | undefined {
  const record = rooms.site(site);
  if (!record) return `there is no site ${site}`;
  const request = {
    id: 'decide',
    vm: vm.vm,
    cpus: vm.cpus,
    memoryMiB: vm.memoryMiB,
    diskMiB: vm.diskMiB,
    accelerator: vm.accelerator,
    image: vm.image,
  };
  const found = place(rooms.hosts(site), request, {
    strategy: record.strategy,
    nowMs,
    counted: (host) => rooms.countedBy(host),
  });
  return 'refused' in found ? `no host there can take it (${found.refused})` : undefined;
}

/** Rule 3: the site that is nearest to the user's, if that is worth a move. */
function nearer(
  vm: VmRecord,
  wanted: string,
  follows: boolean,
  but: string,
  rooms: Rooms,
  nowMs: number,
): Decision | undefined {
  if (!follows) return undefined;
  const distances = distancesFrom(wanted, rooms);
  const hereMs = distances.get(vm.site);
  if (hereMs === undefined) return undefined;
  const better = [...distances]
    .filter(([site, ms]) => site !== vm.site && ms * NEARER_FACTOR <= hereMs && hereMs - ms >= NEARER_BY_MS)
    .toSorted(([a, aMs], [b, bMs]) => aMs - bMs || (a < b ? -1 : 1))
    .find(([site]) => takesGladly(vm, site, rooms, nowMs));
  if (!better) return undefined;
  const [site, ms] = better;
  return {
    site,
    reason: `${but}; ${site} is ${round(ms)} ms from there, ${vm.site} ${round(hereMs)} ms`,
  };
}

/** Rule 4. */
function relieved(
  vm: VmRecord,
  { homeSite }: Assignment,
  but: string,
  rooms: Rooms,
  nowMs: number,
): Decision | undefined {
  const here = loadOf(rooms, vm.site);
  if (here < OVERLOADED_CPU || homeSite === vm.site || !takesGladly(vm, homeSite, rooms, nowMs))
    return undefined;
  const home = percent(loadOf(rooms, homeSite));
  return {
    site: homeSite,
    reason: `${but}; ${vm.site} is overloaded (${percent(here)}) and its home ${homeSite} is not (${home})`,
  };
}

const takesGladly = (vm: VmRecord, site: string, rooms: Rooms, nowMs: number): boolean =>
  loadOf(rooms, site) < RELIEVED_CPU && refusalOf(vm, site, rooms, nowMs) === undefined;

/** The least round trip that hosts of a site have measured to hosts of each other one, in ms. */
function distancesFrom(site: string, rooms: Rooms): Map<string, number> {
  const distances = new Map<string, number>();
  for (const { alive, heartbeat } of rooms.hosts(site)) {
    if (!alive) continue;
    for (const { peer, rttMs } of heartbeat.links) {
      const other = rooms.host(peer)?.site;
      if (rttMs === null || other === undefined || other === site) continue;
      distances.set(other, Math.min(rttMs, distances.get(other) ?? Infinity));
    }
  }
  return distances;
}

/** Mean load of the processors of a site's hosts that live. */
function loadOf(rooms: Rooms, site: string): number {
  const alive = rooms.hosts(site).filter((host) => host.alive);
  if (alive.length === 0) return 0;
  return alive.reduce((sum, { heartbeat }) => sum + heartbeat.cpuLoad, 0) / alive.length;
}

const percent = (share: number): string => `${Math.round(100 * share)} %`;
const round = (ms: number): number => Math.round(10 * ms) / 10;
