import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createCa, issueSiteCertificate, loadCa, writeSiteCertificate } from '../../link/pki.ts';
import { enrol } from '../../registry/enrol.ts';
import { decodeToken } from '../../registry/token.ts';
import { failRegistry } from '../../registry/errors.ts';
import { parseAddress } from '../../site/config-text.ts';
import { exists, writeNode, type HostSettings } from './node-files.ts';

export interface SystemPlan {
  /** Below it each agent gets a directory of its own. */
  readonly dir: string;
  readonly aps: number;
  readonly hostsPerSite: number;
  readonly memoryMiB: number;
  readonly accelerator: 'auto' | 'tcg' | 'kvm';
  /** Ports of the loopback interface: NATS, enrolment, then a gateway for each host. */
  readonly port: () => Promise<number>;
  /** What is different at a host, whose gateway listens there. */
  readonly host?: (id: string, listen: string) => Promise<Partial<HostSettings>>;
}

export interface SystemFiles {
  readonly center: string;
  /** `site.yaml` of each host, by host id. */
  readonly hosts: ReadonlyMap<string, string>;
  readonly aps: readonly string[];
}

/** Asks the center for a token. */
export type AskToken = (wanted: { node: string; role: 'agent' | 'host'; site: string }) => Promise<string>;

const CENTER = 'center';

/** What belongs to a system of that plan. */
export function systemFiles({ dir, aps, hostsPerSite }: SystemPlan): SystemFiles {
  const names = Array.from({ length: aps }, (_, i) => `ap${i + 1}`);
  const hosts = [CENTER, ...names].flatMap((site) =>
    Array.from({ length: hostsPerSite }, (_, i) => `${site}-h${i + 1}`),
  );
  return {
    center: join(dir, CENTER, 'center.yaml'),
    hosts: new Map(hosts.map((host) => [host, join(dir, host, 'site.yaml')])),
    aps: names,
  };
}

/**
 * A certificate authority, and the center's certificate and configuration. What is there already stays: the same directory is
 * the same system again.
 */
export async function makeCenter({ dir, port }: Pick<SystemPlan, 'dir' | 'port'>): Promise<void> {
  const folder = join(dir, CENTER);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const caDir = join(folder, 'ca');
  const ca = (await exists(join(caDir, 'ca.key'))) ? await loadCa(caDir) : await createCa(caDir, 'CloudAP');
  const file = join(folder, 'center.yaml');
  if (await exists(file)) return;
  await writeSiteCertificate(join(folder, 'tls'), await issueSiteCertificate(ca, CENTER));
  await writeFile(
    file,
    `# Configuration of the Cloud center; docs/TWO-TIER.md explains every key.
id: ${CENTER}
dataDir: ./data
nats: { listen: "127.0.0.1:${await port()}" }
enrol: { listen: "127.0.0.1:${await port()}", ca: ./ca }
tls: { ca: ./tls/ca.pem, cert: ./tls/site.pem, key: ./tls/site.key }
`,
    { mode: 0o600 },
  );
}

/** Enrols the agents of a plan that are not yet, at a center that runs. */
export async function enrolNodes(plan: SystemPlan, ask: AskToken): Promise<void> {
  const { aps, hosts } = systemFiles(plan);
  const siteOf = (host: string): string => host.replace(/-h\d+$/, '');
  await Promise.all([
    ...aps.map((ap) => enrolNode(plan, ask, { node: ap, role: 'agent', site: ap })),
    ...[...hosts.keys()].map((host) =>
      enrolNode(plan, ask, { node: host, role: 'host', site: siteOf(host) }),
    ),
  ]);
}

async function enrolNode(plan: SystemPlan, ask: AskToken, wanted: Parameters<AskToken>[0]): Promise<void> {
  const dir = join(plan.dir, wanted.node);
  if (await exists(join(dir, wanted.role === 'agent' ? 'ap.yaml' : 'site.yaml'))) return;
  const token = decodeToken(await ask(wanted));
  const address = parseAddress(token.address);
  if (!address) throw failRegistry('ENROL_TOKEN', token.address);
  const listen = `127.0.0.1:${await plan.port()}`;
  await writeNode(dir, await enrol(token, address), token.address, {
    listen,
    // hosts of one machine may share base images
    imageDir: '../images',
    memoryMiB: plan.memoryMiB,
    vms: 16,
    accelerator: plan.accelerator,
    ...(await plan.host?.(wanted.node, listen)),
  });
}
