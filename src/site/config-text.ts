import type * as z from 'zod';

/** What to write for a key, in words; the lookup goes by the path without list positions. */
const remedies: Readonly<Record<string, string>> = {
  '': 'The file must be a YAML mapping; begin with `id:`',
  id: 'Write the id that is in the certificate, such as `id: center`',
  dataDir: 'Write the directory for VMs and images, such as `dataDir: ./data`',
  runtimeDir: 'Write a short directory for sockets, or leave it out',
  imageDir: 'Write the directory of the image store, or leave it out',
  link: 'Write `link: {listen: 0.0.0.0:7411}` at a site that others dial, `link: {dial: […]}` at one behind NAT',
  'link.listen': 'Write host:port, such as `listen: 0.0.0.0:7411`, or leave it out behind NAT',
  'link.advertise': 'Write the host:port at which other sites reach link.listen, or leave it out',
  'link.relay': 'Leave it out, or write `relay: true` at a host of the center that others can dial',
  'link.dial': 'Write a list, such as `dial: [{site: center, address: center.example.org:7411}]`',
  'link.dial.site': 'Write the id of the other site once',
  'link.dial.address':
    'Write host:port of the other site’s gateway, such as `address: center.example.org:7411`',
  tls: 'Write `tls: {ca: ca.pem, cert: center.pem, key: center.key}`; `cloudap site init` and `add` make the files',
  'tls.ca': 'Write the path of the certificate of the sites’ CA',
  'tls.cert': 'Write the path of this site’s certificate',
  'tls.key': 'Write the path of this site’s private key',
  capacity: 'Write `capacity: {memoryMiB: 4096}`',
  'capacity.memoryMiB': 'Write how much memory VMs may have together, such as `memoryMiB: 4096`',
  'capacity.diskMiB': 'Write how much disk space VMs may have together, or leave it out',
  'capacity.vms': 'Write how many VMs there may be, such as `vms: 16`',
  accelerator: 'Write auto, tcg or kvm',
  migration: 'Leave it out, or see docs/SITE.md',
  'migration.memoryCodec': 'Write raw, rle, zstd or content',
  'migration.diskCodec': 'Write raw, rle, zstd or content',
  'migration.zstdLevel': 'Leave it out, or write a level between 1 and 19',
  'migration.linkLossTimeoutMs': 'Write milliseconds between 1000 and 600000',
  control:
    'Leave it out for a site by itself, or write `control: {site: ap1, servers: ["center.example.org:7422"]}`',
  'control.site': 'Write the id of the site that this host is part of',
  'control.servers': 'Write host:port of the control plane, such as `servers: ["center.example.org:7422"]`',
  'control.center': 'Write the node id of the center, or leave it out where it is `center`',
  'control.enrol': 'Write host:port of the center’s enrolment service, or leave it out',
  'control.nats': 'Leave it out, or write how your own NATS lets us in: user and password, or token',
  'control.nats.user': 'Write the user’s name, or leave it out',
  'control.nats.password': 'Write the user’s password, or leave it out',
  'control.nats.token': 'Write the token, or leave it out',
  residue: 'Leave it out, or write `residue: {maxMiB: 4096}`',
  'residue.maxMiB': 'Write how much disk space residue may take, such as `maxMiB: 4096`; 0 keeps none',
};

/** Every documented key. */
export const configKeys: readonly string[] = Object.keys(remedies).filter((key) => key !== '');

export interface ConfigProblem {
  key: string;
  problem: string;
  remedy: string;
}

/** One finding of the schema, in the words of the file. */
export function configMessage(issue: z.core.$ZodIssue): ConfigProblem[] {
  const shown = issue.path.map(String).join('.');
  const general = issue.path.filter((part) => typeof part === 'string').join('.');
  if (issue.code === 'unrecognized_keys') {
    const prefix = general === '' ? '' : `${general}.`;
    const known = configKeys
      .filter((key) => key.startsWith(prefix) && !key.slice(prefix.length).includes('.'))
      .map((key) => key.slice(prefix.length))
      .join(', ');
    return issue.keys.map((key) => ({
      key: shown === '' ? key : `${shown}.${key}`,
      problem: 'is not a key of the configuration',
      remedy: `Remove it; known here: ${known}`,
    }));
  }
  const missing = issue.code === 'invalid_type' && issue.input === undefined && isMissing(issue.message);
  return [
    {
      key: shown === '' ? 'the file' : shown,
      problem: missing ? 'is missing' : lowerFirst(issue.message),
      remedy: remedies[general] ?? 'See docs/SITE.md',
    },
  ];
}

const isMissing = (message: string): boolean => message.includes('received undefined');
const lowerFirst = (text: string): string => text.charAt(0).toLowerCase() + text.slice(1);

/** `host:port` or `[v6]:port`; undefined where it is neither. Port 0 is not an address. */
export function parseAddress(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([0-9a-fA-F:.%a-z]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port < 1 || port > 65_535) return undefined;
  return { host, port };
}

export function formatAddress(address: { host: string; port: number }): string {
  return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}
