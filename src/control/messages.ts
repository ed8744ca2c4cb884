import * as z from 'zod';
import { LIST_MAX } from './constants.ts';

/**
 * Records and messages of the control plane. Each says its version; a reader takes no other, and drops what it does
 * not know: fields may be added within a version. Who may write what is in docs/CONTROL-PLANE.md.
 */
const version = z.literal(1);

/** Of sites, hosts and agents: as in certificates. */
export const nodeIdSchema = z
  .string()
  .regex(/^[a-z](?:[a-z0-9-]{0,30}[a-z0-9])?$/, 'must be 1 to 32 of a-z, 0-9 and -, beginning with a letter');
const vmIdSchema = z.string().regex(/^vm-[0-9a-f]{12}$/);
const digestSchema = z.string().regex(/^[0-9a-f]{64}$/);
const nameSchema = z.string().min(1).max(64);
const timeMs = z.number().nonnegative();
const count = z.int().nonnegative();

/** A phone, tablet or browser: a MAC address in small letters, or any other name without control characters. */
export const deviceIdSchema = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[^\p{Cc}]+$/u, 'must not hold control characters');
export const userIdSchema = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._@-]{0,63}$/, 'must be 1 to 64 of a-z, 0-9 and . _ @ -');

export const tierSchema = z.enum(['center', 'ap']);
export const strategySchema = z.enum(['least-loaded', 'best-fit', 'first-fit']);
export type StrategyName = z.infer<typeof strategySchema>;

/** An error as it crosses the control plane. */
export const wireErrorSchema = z.object({
  code: z.string().max(64),
  message: z.string().max(4096),
  remedy: z.string().max(1024),
  fields: z.record(z.string(), z.unknown()).default({}),
});
export type WireError = z.infer<typeof wireErrorSchema>;

// --- what the center keeps -------------------------------------------------------------------------------------

/** Bucket `sites`, key site. */
export const siteRecordSchema = z.object({
  version,
  site: nodeIdSchema,
  tier: tierSchema,
  /** For people. */
  label: z.string().max(128).default(''),
  /** How VMs are placed on its hosts. */
  strategy: strategySchema.default('least-loaded'),
  /** Its hosts that take no VM any more and give away those that they have. */
  draining: z.array(nodeIdSchema).max(LIST_MAX).default([]),
  createdAtMs: timeMs,
});
export type SiteRecord = z.infer<typeof siteRecordSchema>;

const certificateSchema = z.object({
  serial: z.string().regex(/^[0-9a-f]{1,40}$/),
  /** SHA-256 of its DER, hexadecimal. */
  fingerprint: digestSchema,
  notAfterMs: timeMs,
});

/** Bucket `nodes`, key node: everything that has a certificate. `agent` is a site's agent (presence, placement). */
export const nodeRecordSchema = z.object({
  version,
  node: nodeIdSchema,
  role: z.enum(['center', 'agent', 'host']),
  site: nodeIdSchema,
  /** Those that are good, the latest first: two while a node changes from one to the next. */
  certificates: z.array(certificateSchema).max(2),
  enrolledAtMs: timeMs,
  revokedAtMs: timeMs.nullable().default(null),
});
export type NodeRecord = z.infer<typeof nodeRecordSchema>;

/** Bucket `enrolments`, key id: a token that lets one node enrol, once. */
export const enrolmentSchema = z.object({
  version,
  id: z.string().regex(/^[0-9a-f]{16}$/),
  node: nodeIdSchema,
  role: z.enum(['agent', 'host']),
  site: nodeIdSchema,
  /** SHA-256 of its secret, hexadecimal. */
  secretHash: digestSchema,
  createdAtMs: timeMs,
  expiresAtMs: timeMs,
  usedAtMs: timeMs.nullable().default(null),
  /** SHA-256 of the public key that it was used for: an answer that got lost may be asked for again, with that key only. */
  usedBy: digestSchema.nullable().default(null),
});
export type Enrolment = z.infer<typeof enrolmentSchema>;

export const roleSchema = z.enum(['user', 'operator', 'admin']);
export type Role = z.infer<typeof roleSchema>;

/** Bucket `accounts`, key token(user): who may use the API. */
export const accountSchema = z.object({
  version,
  user: userIdSchema,
  role: roleSchema,
  /** PHC string of argon2id; null: by OpenID Connect or tokens only. */
  passwordHash: z.string().max(256).nullable(),
  disabled: z.boolean().default(false),
  createdAtMs: timeMs,
});
export type Account = z.infer<typeof accountSchema>;

/** Bucket `credentials`, key id: sessions of people, tokens of machines. */
export const credentialSchema = z.object({
  version,
  id: z.string().regex(/^[0-9a-f]{16}$/),
  kind: z.enum(['session', 'token']),
  user: userIdSchema,
  /** At most; what the account has counts where that is less. */
  role: roleSchema,
  name: z.string().max(64),
  secretHash: digestSchema,
  createdAtMs: timeMs,
  expiresAtMs: timeMs,
});
export type Credential = z.infer<typeof credentialSchema>;

/** Bucket `assignments`, key VM: whose it is and where it goes. */
export const assignmentSchema = z.object({
  version,
  vm: vmIdSchema,
  name: nameSchema,
  user: userIdSchema,
  /** Where it is while its user is nowhere. */
  homeSite: nodeIdSchema,
  /** Whether it follows its user. */
  follow: z.boolean().default(true),
  createdAtMs: timeMs,
});
export type Assignment = z.infer<typeof assignmentSchema>;

/** Bucket `devices`, key token(device). */
export const deviceRecordSchema = z.object({
  version,
  device: deviceIdSchema,
  user: userIdSchema,
  addedAtMs: timeMs,
});
export type DeviceRecord = z.infer<typeof deviceRecordSchema>;

/** Bucket `whereabouts`, key user: where the user is, after debouncing; null: nowhere. */
export const whereaboutsSchema = z.object({
  version,
  user: userIdSchema,
  site: nodeIdSchema.nullable(),
  device: deviceIdSchema,
  /** The device's IP address where it is known. */
  address: z.string().max(64).optional(),
  sinceMs: timeMs,
});
export type Whereabouts = z.infer<typeof whereaboutsSchema>;

export const moveCauses = ['presence', 'leave', 'request', 'rebalance', 'drain'] as const;
export const moveStates = [
  'queued',
  'placing',
  'migrating',
  'completed',
  'stayed',
  'failed',
  'cancelled',
] as const;

/** Bucket `moves`, key move: the decision to move a VM, why, and what became of it. `stayed`: decided not to move. */
export const moveRecordSchema = z.object({
  version,
  move: z.string().regex(/^mig-[0-9a-f]{12}$/),
  vm: vmIdSchema,
  name: nameSchema,
  user: userIdSchema.nullable(),
  from: z.object({ site: nodeIdSchema, host: nodeIdSchema }),
  /** `host` is null until the target site has placed it. */
  to: z.object({ site: nodeIdSchema, host: nodeIdSchema.nullable() }),
  cause: z.enum(moveCauses),
  /** For people: why this place, and, once the target site has placed it, why this host. */
  reason: z.string().max(1024),
  hostReason: z.string().max(1024).nullable().default(null),
  state: z.enum(moveStates),
  requestedAtMs: timeMs,
  startedAtMs: timeMs.nullable().default(null),
  endedAtMs: timeMs.nullable().default(null),
  error: wireErrorSchema.nullable().default(null),
  /** From the migration record, once it has completed. */
  figures: z
    .object({
      downtimeMs: z.number(),
      /** From when the cause arose (the presence) until the VM ran at the target. */
      switchTimeMs: z.number(),
      /** The part of it until its host was told to migrate; null where a center that was killed meanwhile knew it. */
      overheadMs: z.number().nullable().default(null),
      totalTimeMs: z.number(),
      totalBytes: z.number(),
    })
    .nullable()
    .default(null),
});
export type MoveRecord = z.infer<typeof moveRecordSchema>;

// --- what hosts and site agents say -------------------------------------------------------------------------------

const resources = z.object({
  cpus: z.number().nonnegative(),
  memoryMiB: z.number().nonnegative(),
  diskMiB: z.number().nonnegative(),
  vms: count,
});
export type Resources = z.infer<typeof resources>;

/** Published every HEARTBEAT_MS and not stored: who hears none of a host for long takes it for gone. */
export const heartbeatSchema = z.object({
  version,
  host: nodeIdSchema,
  site: nodeIdSchema,
  /** Starts anew with each start of the agent; with `seq` it orders heartbeats. */
  startedAtMs: timeMs,
  seq: count,
  /** The host's clock, as in its VM records. */
  atMs: timeMs,
  capacity: resources,
  used: resources,
  /** Share of the host's processors that is busy, 0 to 1, over the last heartbeats. */
  cpuLoad: z.number().min(0).max(1),
  migrations: count,
  /** Measured, to hosts it has a connection with; a rate only after bulk data has flowed. */
  links: z
    .array(z.object({ peer: nodeIdSchema, rttMs: z.number().nullable(), rateMbit: z.number().nullable() }))
    .max(LIST_MAX),
});
export type Heartbeat = z.infer<typeof heartbeatSchema>;

/** Bucket `inventories`, key `<site>.<host>`: written when it changes. */
export const inventorySchema = z.object({
  version,
  host: nodeIdSchema,
  site: nodeIdSchema,
  cloudapVersion: z.string().max(64),
  qemuVersion: z.string().max(64),
  accelerator: z.enum(['tcg', 'kvm']),
  /** Where other hosts dial its gateway; null where nobody can. */
  address: z.string().max(300).nullable(),
  /** Hosts that cannot reach each other meet there. */
  relay: z.boolean().default(false),
  images: z.array(digestSchema).max(LIST_MAX),
  templates: z.array(digestSchema).max(LIST_MAX),
});
export type Inventory = z.infer<typeof inventorySchema>;

/**
 * Bucket `vms`, key `<site>.<host>.<vm>`: what a host says of a VM that it has files of. Each host writes only its own, so no
 * two ever write the same record; whose the VM is says the highest generation among those that are `owned`.
 */
export const vmRecordSchema = z.object({
  version,
  vm: vmIdSchema,
  name: nameSchema,
  host: nodeIdSchema,
  site: nodeIdSchema,
  status: z.enum(['running', 'paused', 'stopped', 'incoming', 'migrating', 'degraded']),
  generation: z.int().positive(),
  ownership: z.enum(['owned', 'offered', 'incoming']),
  image: digestSchema,
  template: digestSchema.nullable(),
  cpus: count,
  memoryMiB: count,
  /** Space that its overlay takes now. */
  diskMiB: z.number().nonnegative(),
  accelerator: z.enum(['tcg', 'kvm']),
  machineType: z.string().max(128),
  cpuModel: z.string().max(512),
  migration: z.string().max(64).nullable(),
  updatedAtMs: timeMs,
});
export type VmRecord = z.infer<typeof vmRecordSchema>;

/** Bucket `reservations`, key `<site>.<host>`: room that is promised to moves and new VMs; changed by compare-and-swap. */
export const reservationsSchema = z.object({
  version,
  host: nodeIdSchema,
  entries: z
    .array(
      z.object({
        /** Move, or VM that is to be made. */
        id: z.string().max(64),
        vm: vmIdSchema,
        cpus: count,
        memoryMiB: count,
        diskMiB: z.number().nonnegative(),
        expiresAtMs: timeMs,
      }),
    )
    .max(LIST_MAX),
});
export type Reservations = z.infer<typeof reservationsSchema>;

/** Stream PRESENCE. */
export const presenceSchema = z.object({
  version,
  /** The same id counts once. */
  id: z.string().min(1).max(64),
  device: deviceIdSchema,
  site: nodeIdSchema,
  kind: z.enum(['arrive', 'leave']),
  /** Name of the plug-in that saw it: hostapd, dhcp, portal, mec, api. */
  source: z.string().min(1).max(32),
  atMs: timeMs,
  /** The device's IP address where the source knows it. */
  address: z.string().max(64).optional(),
  /** Received signal strength where the source knows it. */
  signalDbm: z.number().min(-200).max(0).optional(),
});
export type Presence = z.infer<typeof presenceSchema>;

/** Stream EVENTS. */
export const eventSchema = z.object({
  version,
  id: z.string().min(1).max(64),
  /** Also the token in its subject: node, vm, move, presence, account … */
  kind: z.string().regex(/^[a-z]{1,16}$/),
  /** What it is about. */
  subject: z.string().max(128),
  /** `enrolled`, `lost`, `completed`, … */
  what: z.string().max(64),
  user: userIdSchema.nullable().default(null),
  atMs: timeMs,
  data: z.record(z.string(), z.unknown()).default({}),
});
export type Event = z.infer<typeof eventSchema>;

// --- requests -----------------------------------------------------------------------------------------------------

/** Around each request. The same `id` again gets the same answer. */
export const requestSchema = z.object({ version, id: z.string().min(1).max(64), params: z.unknown() });
export const answerSchema = z.discriminatedUnion('ok', [
  z.object({ version, ok: z.literal(true), result: z.unknown() }),
  z.object({ version, ok: z.literal(false), error: wireErrorSchema }),
]);

/** site.<site>.place: reserve room on one of the site's hosts. */
export const placeSchema = z.object({
  /** Of the move, or of the VM that is to be made. */
  id: z.string().min(1).max(64),
  vm: vmIdSchema,
  cpus: count,
  memoryMiB: count,
  diskMiB: z.number().nonnegative(),
  accelerator: z.enum(['tcg', 'kvm']).nullable(),
  image: digestSchema,
  /** Hosts not to take, e.g. where it is now. */
  not: z.array(nodeIdSchema).max(LIST_MAX).default([]),
  /** Take this one, or none. */
  only: nodeIdSchema.optional(),
  strategy: strategySchema.optional(),
});
export type Place = z.input<typeof placeSchema>;
export const placedSchema = z.object({
  host: nodeIdSchema,
  reason: z.string().max(1024),
  expiresAtMs: timeMs,
});
export type Placed = z.infer<typeof placedSchema>;
/** site.<site>.release: the room of a move or VM is free again; also where none was reserved. */
export const releaseSchema = z.object({ id: z.string().min(1).max(64), host: nodeIdSchema });
