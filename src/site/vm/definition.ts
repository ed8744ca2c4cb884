import * as z from 'zod';
import { machineSpecSchema } from '../../qemu/machine-spec.ts';
import { vmIdSchema, vmNameSchema } from '../ids.ts';

const digestSchema = z.string().regex(/^[0-9a-f]{64}$/, 'must be a SHA-256 in hexadecimal');

/**
 * `vm.json`: what a VM is, independent of the site. It crosses the link in `migration.prepare`, so it holds no path,
 * and every value is checked again by the site that receives it.
 */
export const vmDefinitionSchema = z.strictObject({
  version: z.literal(1),
  id: vmIdSchema,
  name: vmNameSchema,
  createdAtMs: z.number().nonnegative(),
  /** Digest of the base image. */
  image: digestSchema,
  /** Digest of the template that it started from: content that a site may have, and nothing that it needs. */
  template: digestSchema.optional(),
  /** A running VM cannot change between the two, so the choice made at its creation goes with it. */
  accelerator: z.enum(['tcg', 'kvm']),
  machine: machineSpecSchema,
});
export type VmDefinition = z.infer<typeof vmDefinitionSchema>;

/** `problem.json`: why a VM is `degraded`; survives a restart of the agent. */
export const problemFileSchema = z.object({
  code: z.string(),
  message: z.string(),
  remedy: z.string(),
  fields: z.record(z.string(), z.unknown()).default({}),
});
export type Problem = z.infer<typeof problemFileSchema>;
