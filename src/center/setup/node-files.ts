import { access, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeSiteCertificate } from '../../link/pki.ts';
import type { Enrolled } from '../../registry/enrol.ts';
import { failRegistry } from '../../registry/errors.ts';
import { loadTls } from '../../site/tls.ts';

export interface HostSettings {
  /** host:port of its gateway, and the same as other hosts reach it, where that differs. */
  readonly listen: string;
  readonly advertise?: string;
  readonly memoryMiB?: number;
  readonly vms?: number;
  readonly imageDir?: string;
  readonly accelerator?: 'auto' | 'tcg' | 'kvm';
}

/** Lines of a configuration, those without a value left out. */
const lines = (...all: (string | undefined)[]): string =>
  `${all.filter((line) => line !== undefined).join('\n')}\n`;

const TLS = 'tls: { ca: ./tls/ca.pem, cert: ./tls/site.pem, key: ./tls/site.key }';

/** Is it empty, or of the same node. @throws ENROL_EXISTS */
export async function checkNodeDir(dir: string, node: string): Promise<void> {
  const tls = { ca: 'ca.pem', cert: 'site.pem', key: 'site.key' };
  const paths = Object.fromEntries(Object.entries(tls).map(([key, file]) => [key, join(dir, 'tls', file)]));
  const { ca = '', cert = '', key = '' } = paths;
  if (!(await exists(cert))) return;
  try {
    // an expired one may be replaced, too
    await loadTls({ ca, cert, key }, node, 0);
  } catch (cause) {
    throw failRegistry('ENROL_EXISTS', dir, { cause });
  }
}

/**
 * Writes what a node has got by enrolling: its certificate and key, and a configuration unless there is one, which is
 * kept. Returns the configuration's file.
 */
export async function writeNode(
  dir: string,
  { material, answer }: Enrolled,
  enrolAddress: string,
  host: HostSettings,
): Promise<string> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await writeSiteCertificate(join(dir, 'tls'), material);
  const { node, role, site, center, servers } = answer;
  const control = `control: { site: ${site}, servers: ${JSON.stringify(servers)}, center: ${center}, enrol: "${enrolAddress}" }`;
  const file = join(dir, role === 'agent' ? 'ap.yaml' : 'site.yaml');
  if (await exists(file)) return file;
  const text =
    role === 'agent'
      ? lines(
          `# Configuration of the agent of ${site}; docs/TWO-TIER.md explains every key.`,
          `id: ${node}`,
          'dataDir: ./data',
          control,
          TLS,
        )
      : lines(
          `# Configuration of ${node}; docs/SITE.md explains every key.`,
          `id: ${node}`,
          'dataDir: ./data',
          host.imageDir === undefined ? undefined : `imageDir: ${host.imageDir}`,
          linkOf(host, site === center),
          control,
          capacityOf(host),
          host.accelerator === undefined ? undefined : `accelerator: ${host.accelerator}`,
          TLS,
        );
  await writeFile(file, text, { mode: 0o600 });
  return file;
}

/** Hosts of the center can be reached by all: others that cannot reach each other meet there. */
function linkOf({ listen, advertise }: HostSettings, relay: boolean): string {
  const parts = [
    `listen: "${listen}"`,
    advertise === undefined ? undefined : `advertise: "${advertise}"`,
    relay ? 'relay: true' : undefined,
  ].filter((part) => part !== undefined);
  return `link: { ${parts.join(', ')} }`;
}

function capacityOf({ memoryMiB, vms }: HostSettings): string | undefined {
  const parts = [
    memoryMiB === undefined ? undefined : `memoryMiB: ${memoryMiB}`,
    vms === undefined ? undefined : `vms: ${vms}`,
  ].filter((part) => part !== undefined);
  return parts.length === 0 ? undefined : `capacity: { ${parts.join(', ')} }`;
}

export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
