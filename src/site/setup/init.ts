import { access, mkdir, stat, writeFile } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { join, resolve } from 'node:path';
import { createCa, issueSiteCertificate, loadCa, writeSiteCertificate, type Ca } from '../../link/pki.ts';
import { formatAddress, parseAddress } from '../config-text.ts';
import { loadConfig, parseConfig, type Address } from '../config.ts';
import { failSite } from '../errors.ts';
import { siteIdSchema } from '../ids.ts';

const MIB = 1024 * 1024;
export const CONFIG_NAME = 'site.yaml';
const CA_DIR = 'ca';
const TLS_DIR = 'tls';
const DEFAULT_LISTEN = '0.0.0.0:7411';

export interface SiteSetup {
  id: string;
  dir: string;
  /** host:port; `none` for a site that nobody can dial. */
  listen?: string | undefined;
  advertise?: string | undefined;
  memoryMiB?: number | undefined;
  accelerator?: 'auto' | 'tcg' | 'kvm' | undefined;
}

export interface NewSite extends SiteSetup {
  /** Directory of `init`, or the CA directory in it. */
  ca: string;
  /** `center=host:port`; by default what the configuration beside the CA says. */
  dial?: readonly string[] | undefined;
}

/** Makes a CA and the site that keeps it: the first two commands of a newcomer. @throws SITE_EXISTS, SITE_SETUP, LINK_PKI */
export async function initSite(setup: SiteSetup): Promise<{ config: string; ca: string }> {
  const { dir } = await begin(setup);
  const ca = await createCa(join(dir, CA_DIR), `CloudAP ${setup.id}`);
  const config = await writeSite({ ...setup, dir, listen: setup.listen ?? DEFAULT_LISTEN }, ca, []);
  return { config, ca: join(dir, CA_DIR) };
}

/** Makes a further site with a certificate of that CA; its directory can be copied to another machine as it is. */
export async function addSite(setup: NewSite): Promise<{ config: string }> {
  const { dir } = await begin(setup);
  const { caDir, center } = await findCa(setup.ca);
  const dial = setup.dial?.map(parseDial) ?? (center ? [center] : []);
  if (dial.length === 0 && (setup.listen === undefined || setup.listen === 'none')) {
    throw failSite(
      'SITE_SETUP',
      'the new site could neither dial nor be dialled; give --dial center=host:port or --listen',
    );
  }
  const config = await writeSite({ ...setup, dir }, await loadCa(caDir), dial);
  return { config };
}

async function begin(setup: SiteSetup): Promise<{ dir: string }> {
  const id = siteIdSchema.safeParse(setup.id);
  if (!id.success) throw failSite('SITE_SETUP', `--id ${setup.id}: ${id.error.issues[0]?.message ?? ''}`);
  const dir = resolve(setup.dir);
  if (await exists(join(dir, CONFIG_NAME))) throw failSite('SITE_EXISTS', join(dir, CONFIG_NAME));
  for (const [option, text] of [
    ['--listen', setup.listen],
    ['--advertise', setup.advertise],
  ] as const) {
    if (text !== undefined && text !== 'none' && !parseAddress(text)) {
      throw failSite('SITE_SETUP', `${option} ${text} is not host:port`);
    }
  }
  await mkdir(dir, { recursive: true, mode: 0o700 });
  return { dir };
}

async function findCa(
  path: string,
): Promise<{ caDir: string; center: { site: string; address: string } | undefined }> {
  const base = resolve(path);
  const inside = join(base, CA_DIR);
  const [caDir, home] = (await exists(join(inside, 'ca.key'))) ? [inside, base] : [base, resolve(base, '..')];
  if (!(await exists(join(caDir, 'ca.key'))))
    throw failSite('SITE_SETUP', `no CA in ${base}; make one with \`cloudap site init\``);
  const file = join(home, CONFIG_NAME);
  if (!(await exists(file))) return { caDir, center: undefined };
  const { id, link } = loadConfig(file);
  const address = link.advertise ?? link.listen;
  return { caDir, center: address ? { site: id, address: formatAddress(reachable(address)) } : undefined };
}

/** "All interfaces" is no address to dial: without an `advertise` both sites are taken to be on this machine. */
function reachable(address: Address): Address {
  const any = address.host === '0.0.0.0' || address.host === '::';
  return any ? { host: '127.0.0.1', port: address.port } : address;
}

function parseDial(text: string): { site: string; address: string } {
  const [site, address, ...rest] = text.split('=');
  if (rest.length > 0 || !siteIdSchema.safeParse(site).success || !address || !parseAddress(address)) {
    throw failSite('SITE_SETUP', `--dial ${text} is not SITE=host:port`);
  }
  return { site: site ?? '', address };
}

async function writeSite(
  setup: SiteSetup,
  ca: Ca,
  dial: readonly { site: string; address: string }[],
): Promise<string> {
  const { id, dir, listen, advertise } = setup;
  const text = `# Configuration of site ${id}; docs/SITE.md explains every key.
id: ${id}
dataDir: ./data
link:
${listen === undefined || listen === 'none' ? '' : `  listen: "${listen}"\n`}${advertise ? `  advertise: "${advertise}"\n` : ''}${
  dial.length === 0
    ? '  dial: []'
    : `  dial:\n${dial.map((d) => `    - { site: ${d.site}, address: "${d.address}" }`).join('\n')}`
}
tls:
  ca: ./${TLS_DIR}/ca.pem
  cert: ./${TLS_DIR}/site.pem
  key: ./${TLS_DIR}/site.key
capacity:
  memoryMiB: ${setup.memoryMiB ?? Math.max(256, Math.floor((totalmem() / MIB) * 0.75))}
  vms: 16
accelerator: ${setup.accelerator ?? 'auto'}
`;
  const config = join(dir, CONFIG_NAME);
  parseConfig(text, config);
  await writeSiteCertificate(join(dir, TLS_DIR), await issueSiteCertificate(ca, id));
  await writeFile(config, text, { mode: 0o600, flag: 'wx' });
  return config;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
