import * as z from 'zod';
import { artefactKindSchema } from '../../content/staging/artefact.ts';
import { pushIdSchema, siteIdSchema } from '../ids.ts';

/**
 * What two agents say to each other about a push; the caller is who its certificate says.
 *
 *   source                              target
 *     | stage.prepare ------------------> |   checks, then its process; or: it is there; or a coded no
 *     |   (the processes do the rest over their own link)
 *     | stage.abort <-------------------> |   whoever's side has ended without success
 */
export const stagePrepareSchema = z.strictObject({
  version: z.literal(1),
  pushId: pushIdSchema,
  source: siteIdSchema,
  target: siteIdSchema,
  kind: artefactKindSchema,
  /** `manifest.json` of the artefact; its kind checks it. */
  manifest: z.unknown(),
  /** What its files take on the source's disk, holes not counted. */
  allocatedBytes: z.int().nonnegative(),
  /** True: the source's process dials the target's gateway; false: the other way round. */
  sourceDials: z.boolean(),
  linkLossTimeoutMs: z.int().min(1000).max(600_000),
});
export type StagePrepare = z.infer<typeof stagePrepareSchema>;

export const stagePreparedSchema = z.strictObject({
  pushId: pushIdSchema,
  /** The target has it: nothing is to be sent. */
  present: z.boolean(),
});
export type StagePrepared = z.infer<typeof stagePreparedSchema>;

const text = z.string().max(1000);

export const stageAbortSchema = z.strictObject({
  pushId: pushIdSchema,
  /** How the caller's side ended. */
  error: z.strictObject({ code: text, message: text, remedy: text }),
});
export type StageAbort = z.infer<typeof stageAbortSchema>;
