import { access, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createCa, issueSiteCertificate, loadCa, writeSiteCertificate, type Ca } from '../../link/pki.ts';
import { loadCenterConfig } from '../config.ts';

export interface SystemPlan {
  /** Below it each agent gets a directory of its own. */
  readonly dir: string;
  readonly aps: number;
  readonly hostsPerSite: number;
  readonly memoryMiB: number;
  readonly accelerator: 'auto' | 'tcg' | 'kvm';
  /** Ports of the loopback interface: NATS, then a gateway for each host. */
  readonly port: () => Promise<number>;
}

export interface SystemFiles {
  readonly center: string;
  readonly agents: readonly string[];
  /** `site.yaml` of each host, by host id. */
  readonly hosts: ReadonlyMap<string, string>;
  readonly aps: readonly string[];
}

const CENTER = 'center';

/**
 * Configurations and certificates of a two-tier system on one machine: a center and some APs, each with its hosts. What is
 * there already stays: the same directory is the same system again.
 */
export async function planSystem(plan: SystemPlan): Promise<SystemFiles> {
  const { dir } = plan;
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const caDir = join(dir, 'ca');
  const ca = (await exists(join(caDir, 'ca.key'))) ? await loadCa(caDir) : await createCa(caDir, 'CloudAP');
  const center = join(dir, CENTER, 'center.yaml');
  if (!(await exists(center))) await writeCenter(plan, ca, center);
  const natsPort = portOf(center);
  const aps = Array.from({ length: plan.aps }, (_, i) => `ap${i + 1}`);
  const agents: string[] = [];
  for (const ap of aps) {
    const file = join(dir, ap, 'ap.yaml');
    if (!(await exists(file))) await writeAgent(dir, ca, ap, natsPort, file);
    agents.push(file);
  }
  const hosts = new Map<string, string>();
  for (const site of [CENTER, ...aps])
    for (let i = 1; i <= plan.hostsPerSite; i++) {
      const host = `${site}-h${i}`;
      const file = join(dir, host, 'site.yaml');
      if (!(await exists(file))) await writeHost(plan, ca, site, host, natsPort, file);
      hosts.set(host, file);
    }
  return { center, agents, hosts, aps };
}

async function writeCenter({ dir, port }: SystemPlan, ca: Ca, file: string): Promise<void> {
  await writeNode(dir, ca, CENTER);
  await writeFile(
    file,
    `# Configuration of the Cloud center; docs/TWO-TIER.md explains every key.
id: ${CENTER}
dataDir: ./data
nats: { listen: "127.0.0.1:${await port()}" }
${TLS}`,
    { mode: 0o600 },
  );
}

async function writeAgent(dir: string, ca: Ca, ap: string, natsPort: number, file: string): Promise<void> {
  await writeNode(dir, ca, ap);
  await writeFile(
    file,
    `# Configuration of the agent of ${ap}; docs/TWO-TIER.md explains every key.
id: ${ap}
dataDir: ./data
control: { site: ${ap}, servers: ["127.0.0.1:${natsPort}"], center: ${CENTER} }
${TLS}`,
    { mode: 0o600 },
  );
}

async function writeHost(
  plan: SystemPlan,
  ca: Ca,
  site: string,
  host: string,
  natsPort: number,
  file: string,
): Promise<void> {
  await writeNode(plan.dir, ca, host);
  await writeFile(
    file,
    `# Configuration of ${host}; docs/SITE.md explains every key.
id: ${host}
dataDir: ./data
# hosts of one machine may share base images
imageDir: ../images
link: { listen: "127.0.0.1:${await plan.port()}"${site === CENTER ? ', relay: true' : ''} }
control: { site: ${site}, servers: ["127.0.0.1:${natsPort}"], center: ${CENTER} }
capacity: { memoryMiB: ${plan.memoryMiB}, vms: 16 }
accelerator: ${plan.accelerator}
${TLS}`,
    { mode: 0o600 },
  );
}

const TLS = `tls: { ca: ./tls/ca.pem, cert: ./tls/site.pem, key: ./tls/site.key }\n`;

async function writeNode(dir: string, ca: Ca, node: string): Promise<void> {
  const folder = join(dir, node);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeSiteCertificate(join(folder, 'tls'), await issueSiteCertificate(ca, node));
}

function portOf(center: string): number {
  const { nats } = loadCenterConfig(center);
  return 'listen' in nats ? nats.listen.port : (nats.servers[0]?.port ?? 0);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
