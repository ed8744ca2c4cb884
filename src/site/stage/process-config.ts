import * as z from 'zod';
import { artefactKindSchema } from '../../content/staging/artefact.ts';
import { linkConfigSchema, tlsConfigSchema } from '../../migration/mover/config.ts';
import { pushIdSchema, siteIdSchema } from '../ids.ts';

/** What the process of a push is told first. */
export const stageConfigSchema = z.object({
  role: z.enum(['source', 'target']),
  pushId: pushIdSchema,
  peerSiteId: siteIdSchema,
  link: linkConfigSchema,
  tls: tlsConfigSchema,
  linkLossTimeoutMs: z.number().positive(),
  kind: artefactKindSchema,
  manifest: z.unknown(),
  /** Source: the folder of the artefact. Target: the store, in which it will be one. */
  folder: z.string(),
  /** A migration is under way at this site: see the order `pause`. */
  paused: z.boolean(),
});
export type StageConfig = z.infer<typeof stageConfigSchema>;

/** From the agent to the process of a push. */
export const stageOrderSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('run'), config: stageConfigSchema }),
  z.object({ kind: z.literal('cancel') }),
  /** Nothing is sent while a migration is under way here. */
  z.object({ kind: z.literal('pause'), paused: z.boolean() }),
]);
export type StageOrder = z.infer<typeof stageOrderSchema>;

/** From the process of a push to its agent: on every change, and while there is progress. */
export const stageStatusSchema = z.object({
  state: z.enum(['connecting', 'sending', 'verifying', 'completed', 'failed', 'cancelled']),
  doneBytes: z.number(),
  totalBytes: z.number(),
  /** Of these, bytes that the target had when the push began. */
  resumedBytes: z.number(),
  paused: z.boolean(),
  /** On the wire, both directions, frames included. */
  wireBytes: z.number(),
  rateMbit: z.number().nullable(),
  link: z.enum(['connecting', 'open', 'cut', 'closed']),
  error: z.object({ code: z.string(), message: z.string(), remedy: z.string() }).nullable(),
});
export type StageStatus = z.infer<typeof stageStatusSchema>;
