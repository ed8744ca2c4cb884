import * as z from 'zod';
import { migrationIdSchema, siteIdSchema, vmIdSchema, vmNameSchema } from '../ids.ts';
import { vmDefinitionSchema } from '../vm/definition.ts';

/**
 * What two agents say to each other. Each side speaks for itself: the caller's id is the one in its certificate,
 * never one in a message.
 *
 *   source                               target
 *     | site.hello  <->                    |   both directions, once a connection
 *     | migration.prepare ---------------> |   checks, then mover and incoming QEMU; or a coded no
 *     |   (the movers do the rest over their own link)
 *     | migration.abort -----------------> |   before the switch only
 *     | migration.outcome ---------------> |   when the source's mover is lost: who has the VM?
 *     | <------------------ residue.forget |   the VM has been removed for good at the site that it left to
 */
const qemuVersion = z.string().regex(/^\d{1,3}\.\d{1,3}\.\d{1,3}$/);

export const helloSchema = z.strictObject({
  version: z.literal(1),
  site: siteIdSchema,
  qemuVersion: z.string().max(64),
  accelerator: z.enum(['tcg', 'kvm']),
});
export type Hello = z.infer<typeof helloSchema>;

export const prepareSchema = z.strictObject({
  version: z.literal(1),
  migrationId: migrationIdSchema,
  source: siteIdSchema,
  target: siteIdSchema,
  vm: vmDefinitionSchema,
  /** Generation of the ownership that the source holds; the hand-over makes it one more. */
  generation: z.int().positive(),
  qemuVersion,
  /** Length of the overlay file now. */
  overlayBytes: z.int().nonnegative(),
  /** True: the source's mover dials the target's gateway; false: the other way round. */
  sourceDials: z.boolean(),
  linkLossTimeoutMs: z.int().min(1000).max(600_000),
});
export type Prepare = z.infer<typeof prepareSchema>;

export const preparedSchema = z.strictObject({
  migrationId: migrationIdSchema,
  qemuVersion: z.string().max(64),
  accelerator: z.enum(['tcg', 'kvm']),
});
export type Prepared = z.infer<typeof preparedSchema>;

export const abortSchema = z.strictObject({
  migrationId: migrationIdSchema,
  reason: z.string().max(1000),
});

/**
 * `aborted`: the target has not taken over and never will; `running`: it has; `pending`: still open.
 * After `aborted` the source may take the VM back.
 */
export const outcomeSchema = z.strictObject({
  migrationId: migrationIdSchema,
  outcome: z.enum(['aborted', 'running', 'completed', 'pending']),
});
export type Outcome = z.infer<typeof outcomeSchema>;
export const forgetSchema = z.strictObject({ vmId: vmIdSchema });
export const outcomeRequestSchema = z.strictObject({ migrationId: migrationIdSchema });

/** `<id>.active.json`: enough for a restarted agent to take a migration up where it is. */
export const activeFileSchema = z.strictObject({
  version: z.literal(1),
  role: z.enum(['source', 'target']),
  migrationId: migrationIdSchema,
  vmId: vmIdSchema,
  vmName: vmNameSchema,
  peer: siteIdSchema,
  generation: z.int().positive(),
  initiatedAtMs: z.number(),
  /** False until the mover has answered for the first time. */
  moverStarted: z.boolean(),
});
export type ActiveFile = z.infer<typeof activeFileSchema>;

/** `<id>.outcome.json`: how it ended; the record, if there is one, stands in `<id>.json`. */
export const outcomeFileSchema = z.strictObject({
  version: z.literal(1),
  role: z.enum(['source', 'target']),
  migrationId: migrationIdSchema,
  vmId: vmIdSchema,
  vmName: vmNameSchema,
  peer: siteIdSchema,
  initiatedAtMs: z.number(),
  endedAtMs: z.number(),
  state: z.enum(['completed', 'cancelled', 'failed']),
  error: z
    .object({
      code: z.string(),
      message: z.string(),
      remedy: z.string(),
      fields: z.record(z.string(), z.unknown()).default({}),
    })
    .nullable(),
});
export type OutcomeFile = z.infer<typeof outcomeFileSchema>;
