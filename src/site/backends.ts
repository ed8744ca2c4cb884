import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { TemplateStore } from '../content/templates/store.ts';
import { adoptMover, MoverPool } from '../migration/mover/spawn.ts';
import type { SiteConfig } from './config.ts';
import { sitePaths } from './paths.ts';
import type { MoverBackend, SiteBackends } from './ports.ts';
import { diskBackend } from './vm/disk-backend.ts';
import { imageBackend } from './vm/image-backend.ts';
import { qemuBackend } from './vm/qemu-backend.ts';

/** Movers as processes. */
function moverBackend(logPath: string): MoverBackend & Disposable {
  const pool = new MoverPool(logPath);
  return {
    start: (config) => pool.start(config),
    adopt: adoptMover,
    [Symbol.dispose]: () => pool[Symbol.dispose](),
  };
}

/** What a running agent works with. */
export async function realBackends(config: SiteConfig): Promise<SiteBackends & Disposable> {
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 });
  const movers = moverBackend(join(config.dataDir, 'movers.log'));
  return {
    qemu: qemuBackend(config.accelerator),
    images: await imageBackend(config.imageDir),
    templates: await TemplateStore.open(sitePaths(config).templatesDir),
    movers,
    disks: diskBackend,
    [Symbol.dispose]: () => movers[Symbol.dispose](),
  };
}
