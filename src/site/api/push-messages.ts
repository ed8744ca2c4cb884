import * as z from 'zod';
import { artefactKindSchema } from '../../content/staging/artefact.ts';
import { siteIdSchema } from '../ids.ts';
import { stageStatusSchema } from '../stage/process-config.ts';
import { apiErrorSchema } from './messages.ts';

/** POST /pushes */
export const pushSchema = z.strictObject({
  kind: artefactKindSchema,
  /** Digest, unique prefix of one, or name. */
  what: z.string().min(1).max(256),
  to: siteIdSchema,
});
export type Push = z.input<typeof pushSchema>;

/** A push of an image or template as this site sees it. */
export const pushViewSchema = z.object({
  pushId: z.string(),
  role: z.enum(['source', 'target']),
  kind: artefactKindSchema,
  digest: z.string(),
  name: z.string(),
  peer: z.string(),
  startedAtMs: z.number(),
  endedAtMs: z.number().nullable(),
  state: z.enum(['preparing', 'connecting', 'sending', 'verifying', 'completed', 'cancelled', 'failed']),
  active: z.boolean(),
  /** The target had it already. */
  present: z.boolean(),
  link: stageStatusSchema.shape.link.nullable(),
  progress: stageStatusSchema
    .pick({
      doneBytes: true,
      totalBytes: true,
      resumedBytes: true,
      wireBytes: true,
      rateMbit: true,
      paused: true,
    })
    .nullable(),
  error: apiErrorSchema.nullable(),
});
export type PushView = z.infer<typeof pushViewSchema>;
