import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore, type Image } from '../../content/images/store.ts';
import { statusSchema } from '../../site/api/messages.ts';
import { readJson } from '../../site/json-file.ts';
import { vmDefinitionSchema } from '../../site/vm/definition.ts';
import { apiClient, siteConfig, type SiteOptions } from './command.ts';

/**
 * The image store of a site. Commands work on it by themselves: hashing and copying gigabytes is no work for an
 * agent, and the store may be used by any number of processes.
 */
export async function openStore(options: SiteOptions): Promise<{ store: ImageStore; dataDir: string }> {
  if (options.socket === undefined) {
    const { imageDir, dataDir } = siteConfig(options);
    return { store: await ImageStore.open(imageDir), dataDir };
  }
  const { imageDir, dataDir } = await apiClient(options).json('GET', '/status', statusSchema);
  return { store: await ImageStore.open(imageDir), dataDir };
}

/** Names of the VMs of a site that are based on an image. */
export async function vmsBasedOn(dataDir: string, digest: string): Promise<string[]> {
  const vms = join(dataDir, 'vms');
  const names: string[] = [];
  for (const id of await readdir(vms).catch(() => [])) {
    const vm = await readJson(join(vms, id, 'vm.json'), vmDefinitionSchema).catch(() => undefined);
    if (vm?.image === digest) names.push(vm.name);
  }
  return names;
}

/** Where package lists and packages of guest builds are kept between builds: in CloudAP's own folder, as tests do. */
export function defaultCacheDir(env: NodeJS.ProcessEnv): string {
  return env['CLOUDAP_CACHE'] || fileURLToPath(new URL('../../../.cache', import.meta.url));
}

/** An image as `--json` shows it. */
export function imageView({ manifest, folder }: Image) {
  const { digest, name, createdAt, disk, defaults, commandLine, guest, recipe } = manifest;
  return {
    digest,
    name,
    createdAt,
    folder,
    format: disk.format,
    virtualSizeBytes: disk.virtualSizeBytes,
    fileBytes: disk.fileBytes,
    hasKernel: manifest.kernel !== undefined,
    commandLine: commandLine ?? null,
    defaults,
    guest: guest ?? null,
    recipe: recipe ?? null,
  };
}
