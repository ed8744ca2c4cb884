import type { Logger } from 'pino';
import { asCloudapError } from '../base/errors.ts';
import { sleep } from '../base/async.ts';
import type { NodeRecord } from '../control/messages.ts';
import type { ControlPlane } from '../control/plane.ts';
import { writeAllowedPeers } from '../link/allowed-peers.ts';
import { VM_SCAN_MS } from './constants.ts';

/**
 * Keeps the file that says whom this host's processes let in equal to the center's records, until `signal` aborts. A host that is cut off
 * keeps the last one.
 */
export async function keepPeersFile(
  path: string,
  plane: ControlPlane,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const nodes = new Map<string, NodeRecord>();
  while (!signal.aborted) {
    try {
      let complete = false;
      for await (const change of plane.buckets.nodes.watch(signal)) {
        if (change.value) nodes.set(change.key, change.value);
        else nodes.delete(change.key);
        complete ||= change.complete;
        if (complete) await writeAllowedPeers(path, goodCertificates(nodes));
      }
    } catch (error) {
      if (!signal.aborted) log.warn({ err: asCloudapError(error).message }, 'nodes');
    }
    await sleep(VM_SCAN_MS, signal).catch(() => {});
  }
}

function goodCertificates(nodes: ReadonlyMap<string, NodeRecord>): Map<string, string[]> {
  const good = new Map<string, string[]>();
  for (const [node, { revokedAtMs, certificates }] of nodes)
    if (revokedAtMs === null && certificates.length > 0)
      good.set(
        node,
        certificates.map(({ fingerprint }) => fingerprint),
      );
  return good;
}
