import { readdir } from 'node:fs/promises';
import { sleep } from '../base/async.ts';
import { TemplateStore } from '../content/templates/store.ts';
import type { MoverHandle } from '../migration/mover/handle.ts';
import { argumentsOf, identityOf, isAlive, type ProcessIdentity } from '../qemu/process-identity.ts';
import type { SiteConfig } from './config.ts';
import { ADOPT_RETRY_MS, ADOPT_TIMEOUT_MS } from './constants.ts';
import { sitePaths } from './paths.ts';
import type { MoverBackend, SiteBackends } from './ports.ts';
import { diskBackend } from './vm/disk-backend.ts';
import { imageBackend } from './vm/image-backend.ts';
import { qemuBackend } from './vm/qemu-backend.ts';

/** Loaded when the first mover is needed: an agent that only runs VMs does without. */
const spawner = () => import('../migration/mover/spawn.ts');

const movers: MoverBackend = {
  start: async (config) => (await spawner()).startMover(config),
  adopt: adoptMover,
};

/**
 * Finds the mover by its command line, which names the socket: an agent that was killed while it started a mover has
 * no note of its pid. One that runs but does not answer is ended; what that means the ownership file says.
 */
async function adoptMover(rpcSocket: string): Promise<MoverHandle | undefined> {
  const identity = await findProcess((argument) => argument.startsWith(rpcSocket));
  if (!identity) return undefined;
  const { adoptMover: adopt } = await spawner();
  const deadlineMs = performance.now() + ADOPT_TIMEOUT_MS;
  while (await isAlive(identity)) {
    try {
      return await adopt(rpcSocket, identity.pid);
    } catch {
      if (performance.now() > deadlineMs) break;
      await sleep(ADOPT_RETRY_MS);
    }
  }
  if (await isAlive(identity)) process.kill(identity.pid, 'SIGKILL');
  while (await isAlive(identity)) await sleep(ADOPT_RETRY_MS);
  return undefined;
}

/** The first process of this user with such an argument. */
async function findProcess(matches: (argument: string) => boolean): Promise<ProcessIdentity | undefined> {
  for (const name of await readdir('/proc')) {
    const pid = Number(name);
    if (!/^\d+$/.test(name) || pid === process.pid) continue;
    if ((await argumentsOf(pid)).some(matches)) return identityOf(pid);
  }
  return undefined;
}

/** What a running agent works with. */
export async function realBackends(config: SiteConfig): Promise<SiteBackends> {
  return {
    qemu: qemuBackend(config.accelerator),
    images: await imageBackend(config.imageDir),
    templates: await TemplateStore.open(sitePaths(config).templatesDir),
    movers,
    disks: diskBackend,
  };
}
