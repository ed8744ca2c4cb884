import * as z from 'zod';
import {
  assignmentSchema,
  credentialSchema,
  deviceIdSchema,
  heartbeatSchema,
  inventorySchema,
  moveRecordSchema,
  roleSchema,
  nodeIdSchema,
  strategySchema,
  userIdSchema,
  vmRecordSchema,
  wireErrorSchema,
} from '../control/messages.ts';
import { PASSWORD_MAX_CHARS } from './constants.ts';
import { migrationViewSchema } from '../host/messages.ts';
import { DEVICE_TOKEN_TTL_MAX_MS, DEVICE_TOKEN_TTL_MS } from '../mobility/constants.ts';
import { TOKEN_TTL_MAX_MS, TOKEN_TTL_MS } from '../registry/constants.ts';
import { CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB } from '../site/constants.ts';
import { vmNameSchema } from '../site/ids.ts';

/** What was removed. */
export const removedSchema = z.object({ id: z.string(), removed: z.literal(true) });

/** POST /sessions */
export const loginSchema = z.strictObject({
  user: userIdSchema,
  password: z.string().max(PASSWORD_MAX_CHARS),
});
export const credentialViewSchema = credentialSchema.omit({ secretHash: true, version: true });
export const credentialAnswerSchema = z.object({ token: z.string(), view: credentialViewSchema });
/** GET /me */
export const meSchema = z.object({
  user: z.string(),
  role: roleSchema,
  via: z.enum(['socket', 'session', 'token']),
});
/** GET /accounts */
export const accountViewSchema = z.object({
  user: userIdSchema,
  role: roleSchema,
  disabled: z.boolean(),
  hasPassword: z.boolean(),
  createdAtMs: z.number(),
});

export const taskIdSchema = z.string().regex(/^task-[0-9a-f]{12}$/);
/** GET /tasks */
export const taskViewSchema = z.object({
  id: taskIdSchema,
  kind: z.string(),
  user: z.string(),
  state: z.enum(['running', 'succeeded', 'failed', 'aborted']),
  progress: z.string(),
  startedAtMs: z.number(),
  endedAtMs: z.number().nullable(),
  result: z.unknown(),
  error: wireErrorSchema.nullable(),
});

/** GET /status of a center. */
export const centerStatusSchema = z.object({
  id: z.string(),
  version: z.string(),
  pid: z.number(),
  natsPid: z.number().nullable(),
  startedAtMs: z.number(),
  sites: z.number(),
  hosts: z.object({ alive: z.number(), silent: z.number() }),
  vms: z.number(),
  moves: z.number(),
});
export type CenterStatus = z.infer<typeof centerStatusSchema>;

/** PUT /sites/:site */
export const putSiteSchema = z.strictObject({
  label: z.string().max(128).default(''),
  strategy: strategySchema.default('least-loaded'),
});

/** GET /hosts */
export const hostViewSchema = z.object({
  host: nodeIdSchema,
  site: nodeIdSchema,
  alive: z.boolean(),
  draining: z.boolean(),
  heartbeat: heartbeatSchema,
  inventory: inventorySchema.nullable(),
});
export type HostView = z.infer<typeof hostViewSchema>;

/** GET /vms: where a VM is, whose it is, and why it is there. */
export const centerVmSchema = z.object({
  vm: vmRecordSchema,
  assignment: assignmentSchema.nullable(),
  decision: z.object({ site: z.string(), reason: z.string() }).nullable(),
});
export type CenterVm = z.infer<typeof centerVmSchema>;

/** POST /vms: makes it, starts it and assigns it. */
export const createCenterVmSchema = z
  .strictObject({
    name: vmNameSchema,
    user: userIdSchema,
    /** Where it is made, and where it is while its user is nowhere; by default the center. */
    homeSite: nodeIdSchema.optional(),
    image: z.string().min(1).max(256).optional(),
    template: z.string().min(1).max(256).optional(),
    memoryMiB: z.int().min(MEMORY_MIN_MIB).max(MEMORY_MAX_MIB).optional(),
    cpus: z.int().min(1).max(CPUS_MAX).optional(),
    follow: z.boolean().default(true),
    /** Id of the task, chosen by who asks so that asking again is asking once. */
    task: taskIdSchema.optional(),
  })
  .refine(({ image, template }) => (image === undefined) !== (template === undefined), {
    path: ['image'],
    message: 'give either an image or a template',
  });

/** POST /moves */
export const createMoveSchema = z.strictObject({
  vm: z.string().min(1).max(64),
  toSite: nodeIdSchema,
  toHost: nodeIdSchema.optional(),
  /** Its id, chosen by who asks so that asking again is asking once. */
  move: z
    .string()
    .regex(/^mig-[0-9a-f]{12}$/)
    .optional(),
});
export const moveViewSchema = z.object({
  record: moveRecordSchema,
  migration: migrationViewSchema.nullable(),
});
export type MoveAnswer = z.infer<typeof moveViewSchema>;

/** POST /enrolments: a token, shown this once. */
export const createTokenSchema = z.strictObject({
  node: nodeIdSchema,
  role: z.enum(['agent', 'host']),
  site: nodeIdSchema,
  ttlMs: z.int().min(1_000).max(TOKEN_TTL_MAX_MS).default(TOKEN_TTL_MS),
});
/** GET /enrolments */
export const tokenViewSchema = z.object({
  id: z.string(),
  node: nodeIdSchema,
  role: z.enum(['agent', 'host']),
  site: nodeIdSchema,
  createdAtMs: z.number(),
  expiresAtMs: z.number(),
  usedAtMs: z.number().nullable(),
});
export const tokenAnswerSchema = z.object({ token: z.string(), view: tokenViewSchema });

/** POST /revocations: shuts a node, or all of a site, out. */
export const revokeSchema = z.union([
  z.strictObject({ node: nodeIdSchema }),
  z.strictObject({ site: nodeIdSchema }),
]);

/** PUT /devices/:device */
export const putDeviceSchema = z.strictObject({ user: userIdSchema });
export const deviceViewSchema = z.object({ device: deviceIdSchema, user: userIdSchema });

/** POST /devices/:device/token: what it shows at a site's portal. */
export const deviceTokenSchema = z.strictObject({
  ttlMs: z.int().min(60_000).max(DEVICE_TOKEN_TTL_MAX_MS).default(DEVICE_TOKEN_TTL_MS),
});
export const deviceTokenAnswerSchema = z.object({
  device: deviceIdSchema,
  token: z.string(),
  expiresAtMs: z.number(),
});

/** POST /presence */
export const postPresenceSchema = z.strictObject({
  device: deviceIdSchema,
  site: nodeIdSchema,
  kind: z.enum(['arrive', 'leave']).default('arrive'),
  /** The same id counts once. */
  id: z.string().min(1).max(64).optional(),
});

/** POST /sites/:site/rebalance */
export const rebalanceSchema = z.strictObject({ dryRun: z.boolean().default(false) });
export const rebalancedSchema = z.array(
  z.object({
    vm: z.string(),
    name: z.string(),
    from: nodeIdSchema,
    to: nodeIdSchema,
    reason: z.string(),
    move: moveRecordSchema.nullable(),
    problem: z.string().nullable(),
  }),
);

/** GET, PUT, DELETE /sites/:site/hosts/:host/drain */
export const drainViewSchema = z.object({
  site: nodeIdSchema,
  host: nodeIdSchema,
  draining: z.boolean(),
  left: z
    .array(
      z.object({
        vm: z.string(),
        name: z.string(),
        status: z.string(),
        move: z.string().nullable(),
        why: z.string().nullable(),
      }),
    )
    .readonly(),
});
export type DrainAnswer = z.infer<typeof drainViewSchema>;
