import {
  DiscardPolicy,
  jetstream,
  jetstreamManager,
  RetentionPolicy,
  type JetStreamClient,
  type JetStreamManager,
} from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { nanos, type NatsConnection } from '@nats-io/transport-node';
import type { Logger } from 'pino';
import type * as z from 'zod';
import { Bucket } from './bucket.ts';
import {
  DEDUPE_WINDOW_MS,
  EVENTS_KEPT,
  EVENTS_KEPT_MS,
  PRESENCE_KEPT_MS,
  STORE_TIMEOUT_MS,
} from './constants.ts';
import {
  assignmentSchema,
  deviceRecordSchema,
  eventSchema,
  heartbeatSchema,
  inventorySchema,
  moveRecordSchema,
  nodeRecordSchema,
  enrolmentSchema,
  presenceSchema,
  reservationsSchema,
  siteRecordSchema,
  vmRecordSchema,
  whereaboutsSchema,
  type Event,
  type Heartbeat,
  type Presence,
} from './messages.ts';
import { ALL_EVENTS, ALL_PRESENCE, eventSubject, heartbeatSubject, presenceSubject } from './subjects.ts';

export const STREAMS = { presence: 'PRESENCE', events: 'EVENTS' } as const;

/** Buckets and their records. A name is that of the NATS bucket behind `cloudap-`. */
const SCHEMAS = {
  sites: siteRecordSchema,
  nodes: nodeRecordSchema,
  enrolments: enrolmentSchema,
  assignments: assignmentSchema,
  devices: deviceRecordSchema,
  whereabouts: whereaboutsSchema,
  moves: moveRecordSchema,
  inventories: inventorySchema,
  vms: vmRecordSchema,
  reservations: reservationsSchema,
} as const;
type Schemas = typeof SCHEMAS;
export type BucketName = keyof Schemas;
export type Buckets = { readonly [Name in BucketName]: Bucket<Schemas[Name]> };
export const BUCKET_NAMES = Object.keys(SCHEMAS) as readonly BucketName[];
export const natsBucket = (name: BucketName): string => `cloudap-${name}`;

/** The control plane as an agent sees it: buckets of records, streams, and the connection for requests. */
export interface ControlPlane {
  readonly connection: NatsConnection;
  readonly js: JetStreamClient;
  readonly buckets: Buckets;
  /** Stored; the same id counts once. */
  publishEvent(event: z.input<typeof eventSchema>): Promise<void>;
  publishPresence(presence: z.input<typeof presenceSchema>): Promise<void>;
  /** Lost while there is no connection. */
  publishHeartbeat(heartbeat: Heartbeat): void;
}

/** Opens what the center has made; `create` makes what is missing (the center does, once, at its start). */
export async function openControlPlane(
  connection: NatsConnection,
  options: { log: Logger; create?: boolean; replicas?: number },
): Promise<ControlPlane> {
  const { log, create = false, replicas = 1 } = options;
  const js = jetstream(connection, { timeout: STORE_TIMEOUT_MS });
  const manager = await jetstreamManager(connection, { timeout: STORE_TIMEOUT_MS, checkAPI: false });
  if (create) await makeStreams(manager, replicas);
  const kvm = new Kvm(js);
  const open = async (name: BucketName): Promise<[BucketName, unknown]> => {
    const kv = create
      ? await kvm.create(natsBucket(name), { history: 1, replicas })
      : await kvm.open(natsBucket(name), { bindOnly: true, allow_direct: true });
    const onBad = (key: string, problem: string): void =>
      log.warn({ bucket: name, key, problem }, 'a record was ignored');
    const followed = create ? undefined : { connection, manager, kv, bucket: natsBucket(name) };
    return [name, new Bucket(kv, SCHEMAS[name], onBad, followed)];
  };
  const buckets = Object.fromEntries(await Promise.all(BUCKET_NAMES.map(open))) as unknown as Buckets;
  const publish = async (subject: string, id: string, message: object): Promise<void> => {
    await js.publish(subject, JSON.stringify(message), { msgID: id });
  };
  return {
    connection,
    js,
    buckets,
    publishEvent: (event) => {
      const checked: Event = eventSchema.parse(event);
      return publish(eventSubject(checked.kind, checked.subject), checked.id, checked);
    },
    publishHeartbeat: (heartbeat) => {
      const { site, host } = heartbeatSchema.parse(heartbeat);
      if (!connection.isClosed()) connection.publish(heartbeatSubject(site, host), JSON.stringify(heartbeat));
    },
    publishPresence: (presence) => {
      const checked: Presence = presenceSchema.parse(presence);
      return publish(presenceSubject(checked.site, checked.device), checked.id, checked);
    },
  };
}

async function makeStreams(manager: JetStreamManager, replicas: number): Promise<void> {
  const common = {
    num_replicas: replicas,
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    duplicate_window: nanos(DEDUPE_WINDOW_MS),
  };
  const wanted = [
    {
      ...common,
      name: STREAMS.events,
      subjects: [ALL_EVENTS],
      max_msgs: EVENTS_KEPT,
      max_age: nanos(EVENTS_KEPT_MS),
    },
    {
      ...common,
      name: STREAMS.presence,
      subjects: [ALL_PRESENCE],
      // of what a site says of a device only the latest counts
      max_msgs_per_subject: 1,
      max_age: nanos(PRESENCE_KEPT_MS),
    },
  ];
  const there = new Set<string>();
  for await (const name of manager.streams.names()) there.add(name);
  for (const config of wanted) {
    if (there.has(config.name)) await manager.streams.update(config.name, config);
    else await manager.streams.add(config);
  }
}
