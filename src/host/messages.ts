import * as z from 'zod';
import { nodeIdSchema } from '../control/messages.ts';
import { CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB } from '../site/constants.ts';
import { migrationIdSchema, vmIdSchema, vmNameSchema } from '../site/ids.ts';
import { migrationViewSchema, vmViewSchema } from '../site/api/messages.ts';

/** Requests to a host: `cloudap.v1.host.<host>.<method>`. Ids are chosen by who asks, so that each may be asked again. */
export const vmCreateSchema = z.object({
  vm: vmIdSchema,
  name: vmNameSchema,
  image: z.string().min(1).max(256).optional(),
  template: z.string().min(1).max(256).optional(),
  memoryMiB: z.int().min(MEMORY_MIN_MIB).max(MEMORY_MAX_MIB).optional(),
  cpus: z.int().min(1).max(CPUS_MAX).optional(),
  append: z.string().max(2000).optional(),
});
export type VmCreate = z.input<typeof vmCreateSchema>;
export const vmRequestSchema = z.object({ vm: vmIdSchema });
export const vmStopSchema = z.object({ vm: vmIdSchema, force: z.boolean().default(false) });
export const screenshotSchema = z.object({ png: z.base64() });

export const migrateSchema = z.object({
  move: migrationIdSchema,
  vm: vmIdSchema,
  to: nodeIdSchema,
  initiatedAtMs: z.number().nonnegative(),
});
/** Dial that host, which cannot dial us; or wait for it at a relay, where it comes. */
export const connectSchema = z.union([
  z.object({ host: nodeIdSchema, address: z.string().max(300) }),
  z.object({ host: nodeIdSchema, relay: nodeIdSchema }),
]);
export type Connect = z.infer<typeof connectSchema>;
export const migrationSchema = z.object({ move: migrationIdSchema });

export { migrationViewSchema, vmViewSchema };
