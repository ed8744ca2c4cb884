import { z } from 'zod';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import {
  centerVmSchema,
  deviceViewSchema,
  moveViewSchema,
  type CenterVm,
  type MoveAnswer,
} from '../../src/portal/messages.ts';
import { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { TwoTier } from '../../src/lab/two-tier.ts';
import { makeVm } from '../../src/portal/client.ts';
import { vmViewSchema } from '../../src/site/api/messages.ts';
import type { SystemPlan } from '../../src/center/setup/system.ts';
import { cli } from './siteProcess.ts';
import type { TempDir } from './tempdir.ts';

/** A two-tier system with the CI guest staged at every host. */
export async function twoTier(
  dir: TempDir,
  aps: number,
  hostsPerSite = 1,
  change: Pick<SystemPlan, 'host'> = {},
): Promise<TwoTier> {
  const system = await TwoTier.start({
    dir: dir.file('up'),
    aps,
    hostsPerSite,
    memoryMiB: 1024,
    accelerator: 'tcg',
    port: freePort,
    ...change,
  });
  const [config = ''] = system.files.hosts.values();
  const built = await cli(['image', 'build', 'ci'], { config });
  if (built.code !== 0) throw new Error(built.stderr);
  return system;
}

/** Makes a VM of the CI guest for a user with a device, and waits until its workload answers. */
export async function deskOf(
  system: TwoTier,
  user: string,
  machine: { memoryMiB?: number; name?: string; homeSite?: string } = {},
): Promise<string> {
  const body = { name: `desk-${user}`, user, image: 'ci', ...machine };
  const made = await makeVm(system.center, body);
  await system.center.json('PUT', `/devices/phone-${user}`, deviceViewSchema, { body: { user } });
  return made.id;
}

export const present = (system: TwoTier, user: string, site: string, kind = 'arrive'): Promise<unknown> =>
  system.center.json('POST', '/presence', z.unknown(), { body: { device: `phone-${user}`, site, kind } });

export const centerVm = (system: TwoTier, id: string): Promise<CenterVm> =>
  system.center.json('GET', `/vms/${id}`, centerVmSchema);

export const movesOf = async (system: TwoTier, vm: string): Promise<MoveAnswer[]> =>
  system.center.all(`/moves?vm=${vm}`, moveViewSchema);

/** Waits until the VM runs at the site and nothing of a move is left. The center may be away meanwhile. */
export async function settledAt(system: TwoTier, id: string, site: string): Promise<CenterVm> {
  for (;;) {
    try {
      const found = await centerVm(system, id);
      const moving = (await movesOf(system, id)).some(({ record }) => record.endedAtMs === null);
      const { vm } = found;
      if (!moving && vm.site === site && vm.status === 'running' && vm.ownership === 'owned') return found;
    } catch {
      // it is being started again
    }
    await sleep(100);
  }
}

/** The guest's own check of every block and page that it wrote. */
export async function verified(system: TwoTier, host: string, id: string): Promise<string> {
  const view = await system.host(host).json('GET', `/vms/${id}`, vmViewSchema);
  using work = await WorkloadClient.connect(view.serial1Socket ?? '');
  return (await work.command('verify')).line;
}
