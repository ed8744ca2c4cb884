import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ImageStore, type Image } from '../../content/images/store.ts';
import { TemplateStore } from '../../content/templates/store.ts';
import { statusSchema } from '../../site/api/messages.ts';
import { readJson } from '../../site/json-file.ts';
import { sitePaths } from '../../site/paths.ts';
import { vmDefinitionSchema } from '../../site/vm/definition.ts';
import { apiClient, siteConfig, type SiteOptions } from './command.ts';

/**
 * The image store of a site. Commands work on it by themselves: hashing and copying gigabytes is no work for an
 * agent, and the store may be used by any number of processes.
 */
export async function openStore(options: SiteOptions): Promise<{ store: ImageStore; site: SiteFolders }> {
  const site = await siteFolders(options);
  return { store: await ImageStore.open(site.imageDir), site };
}

/** As `openStore`, for templates. */
export async function openTemplates(options: SiteOptions): Promise<TemplateStore> {
  return TemplateStore.open(sitePaths(await siteFolders(options)).templatesDir);
}

type SiteFolders = Parameters<typeof sitePaths>[0];

async function siteFolders(options: SiteOptions): Promise<SiteFolders> {
  if (options.socket === undefined) return siteConfig(options);
  return apiClient(options).json('GET', '/status', statusSchema);
}

/** Names of the VMs and templates of a site that are based on an image. */
export async function basedOn(site: SiteFolders, digest: string): Promise<string[]> {
  const { vmsDir: vms, templatesDir } = sitePaths(site);
  const names: string[] = [];
  for (const id of await readdir(vms).catch(() => [])) {
    const vm = await readJson(join(vms, id, 'vm.json'), vmDefinitionSchema).catch(() => undefined);
    if (vm?.image === digest) names.push(vm.name);
  }
  for (const { manifest } of await (await TemplateStore.open(templatesDir)).list()) {
    if (manifest.image === digest) names.push(`template ${manifest.name}`);
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
