import { natsUserOf } from '../link/pki.ts';
import { inboxOf } from '../control/connect.ts';
import type { NodeRecord } from '../control/messages.ts';
import { natsBucket, type BucketName } from '../control/plane.ts';
import type { NatsUser } from '../control/server.ts';
import { heartbeatsOf, heartbeatSubject, hostSubject, siteSubject } from '../control/subjects.ts';

export interface Permissions {
  readonly publish: readonly string[];
  readonly subscribe: readonly string[];
}

/**
 * What a node may say and hear on the control plane: its own records, presence of its own site, answers. None may make a
 * consumer: that one may deliver to any subject, so who may make it could speak in anybody's name.
 */
export function permissionsOf({ node, role, site }: Pick<NodeRecord, 'node' | 'role' | 'site'>): Permissions {
  if (role === 'center') return { publish: ['>'], subscribe: ['>'] };
  const own = role === 'host' ? ofHost(site, node) : ofAgent(site);
  return {
    publish: ['$JS.API.INFO', ...own.publish],
    subscribe: [`${inboxOf(node)}.>`, ...own.subscribe],
  };
}

function ofHost(site: string, host: string): Permissions {
  const reads = [read('nodes', '>'), read('inventories', '>'), read('vms', `${site}.${host}.>`)];
  return {
    publish: [
      heartbeatSubject(site, host),
      write('vms', `${site}.${host}.*`),
      write('inventories', `${site}.${host}`),
      // how its migrations go, for whoever waits
      'cloudap.v1.progress.migration.*',
      // to have another host dial it, where that one cannot be dialled
      hostSubject('*', 'connect'),
      ...reads.flatMap(({ publish }) => publish),
    ],
    subscribe: [hostSubject(host, '*'), ...reads.flatMap(({ subscribe }) => subscribe)],
  };
}

function ofAgent(site: string): Permissions {
  const reads = [
    read('sites', site),
    read('sites', '>'),
    read('nodes', '>'),
    read('inventories', `${site}.>`),
    read('reservations', `${site}.>`),
    read('vms', `${site}.>`),
  ];
  return {
    publish: [
      write('reservations', `${site}.*`),
      `cloudap.v1.presence.${site}.*`,
      ...reads.flatMap(({ publish }) => publish),
    ],
    subscribe: [siteSubject(site, '*'), heartbeatsOf(site), ...reads.flatMap(({ subscribe }) => subscribe)],
  };
}

const write = (bucket: BucketName, keys: string): string => `$KV.${natsBucket(bucket)}.${keys}`;

/** Keys of the whole bucket can be listed; records are read, and changes heard, of those that match only. */
function read(bucket: BucketName, keys: string): Permissions {
  const stream = `KV_${natsBucket(bucket)}`;
  return {
    publish: [
      `$JS.API.STREAM.INFO.${stream}`,
      `$JS.API.DIRECT.GET.${stream}.$KV.${natsBucket(bucket)}.${keys}`,
    ],
    subscribe: [write(bucket, keys)],
  };
}

/** Users of the center's own nats-server: one for each certificate that is good. */
export function natsUsers(nodes: readonly NodeRecord[]): NatsUser[] {
  return nodes
    .filter(({ revokedAtMs }) => revokedAtMs === null)
    .flatMap((node) =>
      node.certificates.map(({ serial }) =>
        node.role === 'center'
          ? { user: natsUserOf(serial) }
          : { user: natsUserOf(serial), ...permissionsOf(node) },
      ),
    )
    .toSorted((a, b) => (a.user < b.user ? -1 : 1));
}
