import { readFile, stat } from 'node:fs/promises';
import { LEASES_MAX_BYTES } from '../constants.ts';
import { Hook } from './hook.ts';
import { macOf, type PresenceSource, type Report } from './source.ts';

export interface DhcpOptions {
  /** Where the script goes that dnsmasq calls: `dhcp-script=<dir>/dhcp.sh`. */
  readonly dir: string;
  /** dnsmasq's lease file: who is there already when the agent starts. */
  readonly leases?: string | undefined;
}

/** DHCP leases of dnsmasq: a device is there while it has one (dnsmasq(8), --dhcp-script). */
export function dhcpSource({ dir, leases }: DhcpOptions): PresenceSource {
  return {
    name: 'dhcp',
    async run(report, signal) {
      await using hook = await Hook.make(dir, 'dhcp');
      if (leases !== undefined) await reportLeases(leases, report);
      for await (const [action = '', mac = '', address = ''] of hook.calls(signal)) {
        const device = macOf(mac);
        const kind = kinds[action];
        if (device && kind) report({ device, kind, ...(address === '' ? {} : { address }) });
      }
    },
  };
}

/** `old`: the lease was there when dnsmasq started, or was renewed by another name. */
const kinds: Readonly<Record<string, 'arrive' | 'leave'>> = { add: 'arrive', old: 'arrive', del: 'leave' };

/** A line each: expiry (Unix time in s, 0 for ever), MAC, address, name, client id. */
async function reportLeases(path: string, report: Report): Promise<void> {
  const size = await stat(path).then(
    (found) => found.size,
    () => 0,
  );
  if (size === 0 || size > LEASES_MAX_BYTES) return;
  const nowS = Date.now() / 1000;
  for (const line of (await readFile(path, 'utf8')).split('\n')) {
    const [expiry = '', mac = '', address = ''] = line.split(' ');
    const device = macOf(mac);
    if (!device || !/^\d+$/.test(expiry)) continue;
    if (Number(expiry) !== 0 && Number(expiry) < nowS) continue;
    report({ device, kind: 'arrive', address });
  }
}
