import * as z from 'zod';
import { imageNameSchema } from '../../content/images/manifest.ts';
import { TEMPLATE_AFTER_MAX_S } from '../constants.ts';
import { apiErrorSchema, createVmSchema } from './messages.ts';

/** POST /templates */
export const buildTemplateSchema = z
  .strictObject({
    name: imageNameSchema,
    /** Digest, unique prefix of one, or name of an image in the site's store. */
    image: createVmSchema.shape.image,
    /** Id or name of a VM that runs here, instead: it is copied as it is, and goes on. */
    vm: z.string().min(1).max(256).optional(),
    memoryMiB: createVmSchema.shape.memoryMiB,
    cpus: createVmSchema.shape.cpus,
    append: createVmSchema.shape.append,
    machineType: createVmSchema.shape.machineType,
    cpuModel: createVmSchema.shape.cpuModel,
    /** Freeze the guest so long after its start, instead of when it says that it is ready. */
    afterS: z.int().min(0).max(TEMPLATE_AFTER_MAX_S).optional(),
  })
  .superRefine(({ name: _name, image, vm, ...choice }, context) => {
    if ((image === undefined) === (vm === undefined))
      context.addIssue({ code: 'custom', path: ['image'], message: 'give either an image or a VM' });
    for (const [key, value] of Object.entries(vm === undefined ? {} : choice))
      if (value !== undefined)
        context.addIssue({ code: 'custom', path: [key], message: 'is what the VM says' });
  });
export type BuildTemplate = z.input<typeof buildTemplateSchema>;

export const buildStates = [
  'starting',
  'booting',
  'saving',
  'hashing',
  'completed',
  'failed',
  'cancelled',
] as const;

/** A build as its events and GET /templates/builds/:id show it. */
export const buildViewSchema = z.object({
  buildId: z.string(),
  name: z.string(),
  image: z.string(),
  state: z.enum(buildStates),
  active: z.boolean(),
  startedAtMs: z.number(),
  endedAtMs: z.number().nullable(),
  /** How long the VM that it is a copy of stood still. */
  stoodStillMs: z.number().nullable(),
  /** Digest of the template, when it is there. */
  template: z.string().nullable(),
  error: apiErrorSchema.nullable(),
});
export type BuildView = z.infer<typeof buildViewSchema>;

/** GET /templates */
export const templateViewSchema = z.object({
  digest: z.string(),
  name: z.string(),
  createdAt: z.string(),
  folder: z.string(),
  image: z.string(),
  memoryMiB: z.number(),
  cpus: z.number(),
  machineType: z.string(),
  cpuModel: z.string(),
  accelerator: z.string(),
  qemuVersion: z.string(),
  overlayBytes: z.number(),
  ramBytes: z.number(),
  devicesBytes: z.number(),
  /** What the files take on disk: `ram` has holes. */
  allocatedBytes: z.number(),
  /** VMs that run here and came from it. */
  usedBy: z.array(z.string()),
});
export type TemplateView = z.infer<typeof templateViewSchema>;

export const templateRemovedSchema = z.object({
  digest: z.string(),
  name: z.string(),
  removed: z.literal(true),
});
