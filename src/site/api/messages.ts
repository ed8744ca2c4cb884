import * as z from 'zod';
import { moverStatusSchema } from '../../migration/mover/config.ts';
import { migrationRecordSchema } from '../../migration/record.ts';
import { machineSpecSchema } from '../../qemu/machine-spec.ts';
import { CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB, SWITCH_BUDGET_MAX_MS } from '../constants.ts';
import { siteIdSchema, vmNameSchema } from '../ids.ts';

/** An error as it crosses the API, with an HTTP status beside it. */
export const apiErrorSchema = z.object({
  code: z.string(),
  message: z.string(),
  remedy: z.string(),
  fields: z.record(z.string(), z.unknown()).default({}),
});
export type ApiError = z.infer<typeof apiErrorSchema>;

/** POST /vms */
export const createVmSchema = z
  .strictObject({
    name: vmNameSchema,
    /** Digest, unique prefix of one, or name of an image in the site's store. */
    image: z.string().min(1).max(256).optional(),
    /** As `image`, of a template: the VM goes on from it at once. Its machine is the template's. */
    template: z.string().min(1).max(256).optional(),
    memoryMiB: z.int().min(MEMORY_MIN_MIB).max(MEMORY_MAX_MIB).optional(),
    cpus: z.int().min(1).max(CPUS_MAX).optional(),
    /** Kernel command line of an image with a kernel; appended to the image's own. */
    append: z.string().max(2000).optional(),
    machineType: machineSpecSchema.shape.machineType.optional(),
    cpuModel: machineSpecSchema.shape.cpuModel.optional(),
    start: z.boolean().default(false),
  })
  .superRefine(({ image, template, name: _name, start: _start, ...machine }, context) => {
    if ((image === undefined) === (template === undefined)) {
      context.addIssue({ code: 'custom', path: ['image'], message: 'give either an image or a template' });
    }
    for (const [key, value] of Object.entries(template === undefined ? {} : machine)) {
      if (value !== undefined)
        context.addIssue({ code: 'custom', path: [key], message: 'is what the template says' });
    }
  });
export type CreateVm = z.input<typeof createVmSchema>;

/** POST /vms/:vm/stop */
export const stopVmSchema = z.strictObject({
  /** True: QEMU quits at once, as when the power fails. */
  force: z.boolean().default(false),
  graceMs: z.int().min(0).max(600_000).optional(),
});

export const vmStatuses = ['running', 'paused', 'stopped', 'incoming', 'migrating', 'degraded'] as const;

/** A VM as `vm ls --json` and GET /vms show it. */
export const vmViewSchema = z.object({
  id: z.string(),
  name: z.string(),
  site: z.string(),
  status: z.enum(vmStatuses),
  /** Why a VM is `degraded`. */
  problem: apiErrorSchema.nullable(),
  owner: z.string(),
  generation: z.number(),
  ownership: z.enum(['owned', 'offered', 'incoming']),
  image: z.string(),
  imageName: z.string().nullable(),
  /** Digest of the template that it came from. */
  template: z.string().nullable(),
  memoryMiB: z.number(),
  cpus: z.number(),
  accelerator: z.string(),
  machineType: z.string(),
  cpuModel: z.string(),
  createdAtMs: z.number(),
  pid: z.number().nullable(),
  migrationId: z.string().nullable(),
  dir: z.string(),
  serialLog: z.string(),
  /** Unix socket of the screen (RFB) while the VM runs. */
  vncSocket: z.string().nullable(),
  /** Unix sockets of the guest's serial ports while the VM runs; the second for guests that have one. */
  serialSocket: z.string().nullable(),
  serial1Socket: z.string().nullable(),
  /** From the request that made and started it to its running, in ms; in the answer to that request only. */
  startedMs: z.number().optional(),
});
export type VmView = z.infer<typeof vmViewSchema>;

/** POST /migrations */
export const migrateSchema = z.strictObject({
  vm: z.string().min(1).max(64),
  to: siteIdSchema,
  scheme: z.enum(['hybrid']).default('hybrid'),
  memoryCodec: z.enum(['raw', 'rle', 'zstd', 'content']).optional(),
  diskCodec: z.enum(['raw', 'rle', 'zstd', 'content']).optional(),
  /** Null: none; left out: as it pays. */
  switchBudgetMs: z.number().int().min(1).max(SWITCH_BUDGET_MAX_MS).nullable().optional(),
});
export type Migrate = z.input<typeof migrateSchema>;

/** A migration as this site sees it: what was asked, and the last word of the mover. */
export const migrationViewSchema = z.object({
  migrationId: z.string(),
  role: z.enum(['source', 'target']),
  vmId: z.string(),
  vmName: z.string(),
  peer: z.string(),
  /** `preparing` before there is a mover, then the mover's state. */
  state: z.union([z.literal('preparing'), moverStatusSchema.shape.state]),
  active: z.boolean(),
  initiatedAtMs: z.number(),
  link: moverStatusSchema.shape.link.nullable(),
  progress: moverStatusSchema.shape.progress.nullable(),
  error: apiErrorSchema.nullable(),
  record: migrationRecordSchema.nullable(),
});
export type MigrationView = z.infer<typeof migrationViewSchema>;

/** GET /sites */
export const siteViewSchema = z.object({
  id: z.string(),
  self: z.boolean(),
  connected: z.boolean(),
  /** `dialled`: this site called there; `accepted`: the other called here. */
  direction: z.enum(['dialled', 'accepted']).nullable(),
  address: z.string().nullable(),
  connectedSinceMs: z.number().nullable(),
  qemuVersion: z.string().nullable(),
  accelerator: z.string().nullable(),
  error: apiErrorSchema.nullable(),
});
export type SiteView = z.infer<typeof siteViewSchema>;

/** GET /status */
export const statusSchema = z.object({
  id: z.string(),
  version: z.string(),
  pid: z.number(),
  startedAtMs: z.number(),
  dataDir: z.string(),
  runtimeDir: z.string(),
  imageDir: z.string(),
  listen: z.string().nullable(),
  gatewayPid: z.number().nullable(),
  qemuVersion: z.string(),
  accelerator: z.string(),
  acceleratorReason: z.string(),
  capacity: z.object({
    memoryMiB: z.number(),
    memoryUsedMiB: z.number(),
    diskMiB: z.number().nullable(),
    diskUsedMiB: z.number(),
    diskFreeMiB: z.number(),
    vms: z.number(),
    vmsUsed: z.number(),
  }),
  rssMiB: z.number(),
});
export type SiteStatus = z.infer<typeof statusSchema>;

/** GET /residue */
export const residueViewSchema = z.object({
  vmId: z.string(),
  vmName: z.string(),
  /** The site that the VM left to, and when; when that was last of use to a VM that came home. */
  leftTo: z.string(),
  keptAtMs: z.number(),
  usedAtMs: z.number(),
  bytes: z.number(),
});
export type ResidueView = z.infer<typeof residueViewSchema>;

export const removedSchema = z.object({ id: z.string(), removed: z.literal(true) });
