import type { MoverConfig } from '../migration/mover/config.ts';
import type { MoverHandle } from '../migration/mover/handle.ts';
import type { SiteConfig } from './config.ts';
import type { MoverBackend, SiteBackends } from './ports.ts';
import { diskBackend } from './vm/disk-backend.ts';
import { imageBackend } from './vm/image-backend.ts';
import { qemuBackend } from './vm/qemu-backend.ts';

interface SpawnModule {
  startMover(config: MoverConfig): Promise<MoverHandle>;
  adoptMover(rpcSocket: string): Promise<MoverHandle>;
}

/** Loaded when the first mover is needed: an agent that only runs VMs does without. */
const spawnModule = async (): Promise<SpawnModule> => {
  const path = '../migration/mover/spawn.ts';
  return (await import(path)) as SpawnModule;
};

const movers: MoverBackend = {
  start: async (config) => (await spawnModule()).startMover(config),
  adopt: async (rpcSocket) => (await spawnModule()).adoptMover(rpcSocket),
};

/** What a running agent works with. */
export async function realBackends(config: SiteConfig): Promise<SiteBackends> {
  return {
    qemu: qemuBackend(config.accelerator),
    images: await imageBackend(config.imageDir),
    movers,
    disks: diskBackend,
  };
}
