import type { Fleet } from '../control/fleet.ts';
import type { Assignment, VmRecord } from '../control/messages.ts';
import { OVERLOADED_CPU, RELIEVED_CPU } from './constants.ts';
import { place } from './placement.ts';

/** Where a VM should be, and why, for people. */
export interface Decision {
  readonly site: string;
  readonly reason: string;
}

export type Rooms = Pick<Fleet, 'hosts' | 'site' | 'countedBy'>;

/**
 * Where a VM should be (the paper's section III, and its future work: the user's location and the loads of AP and center).
 * The first rule that holds decides:
 *
 *   1. It does not follow its user, or the user is nowhere: its home site.
 *   2. It is at the user's site: it stays.
 *   3. The user's site has no room for it: it stays where it is; nothing is gained by a third place.
 *   4. The user's site is overloaded: it stays, unless where it is now is overloaded, too.
 *   5. The user's site.
 */
export function decide(
  vm: VmRecord,
  assignment: Assignment,
  userSite: string | null,
  rooms: Rooms,
  nowMs: number,
): Decision {
  const stay = (why: string): Decision => ({ site: vm.site, reason: `stays at ${vm.site}: ${why}` });
  const wanted = assignment.follow && userSite !== null ? userSite : assignment.homeSite;
  const cause =
    wanted === userSite && assignment.follow
      ? `${assignment.user} is at ${wanted}`
      : assignment.follow
        ? `${assignment.user} is nowhere, and ${wanted} is its home`
        : `it does not follow, and ${wanted} is its home`;
  if (wanted === vm.site) return { site: vm.site, reason: cause };
  const site = rooms.site(wanted);
  if (!site) return stay(`there is no site ${wanted}`);
  const hosts = rooms.hosts(wanted);
  const request = {
    id: 'decide',
    vm: vm.vm,
    cpus: vm.cpus,
    memoryMiB: vm.memoryMiB,
    diskMiB: vm.diskMiB,
    accelerator: vm.accelerator,
    image: vm.image,
  };
  const found = place(hosts, request, {
    strategy: site.strategy,
    nowMs,
    counted: (host) => rooms.countedBy(host),
  });
  if ('refused' in found) return stay(`${cause}, but no host there can take it (${found.refused})`);
  const [there, here] = [loadOf(rooms, wanted), loadOf(rooms, vm.site)];
  // two marks, so that a load that hovers about one of them moves nothing to and fro
  if (there >= OVERLOADED_CPU && here < RELIEVED_CPU)
    return stay(
      `${cause}, but ${wanted} is overloaded (${percent(there)}) and ${vm.site} is not (${percent(here)})`,
    );
  return { site: wanted, reason: cause };
}

/** Mean load of the processors of a site's hosts that live. */
function loadOf(rooms: Rooms, site: string): number {
  const alive = rooms.hosts(site).filter((host) => host.alive);
  if (alive.length === 0) return 0;
  return alive.reduce((sum, { heartbeat }) => sum + heartbeat.cpuLoad, 0) / alive.length;
}

const percent = (share: number): string => `${Math.round(100 * share)} %`;
