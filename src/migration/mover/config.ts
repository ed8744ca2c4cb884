import * as z from 'zod';
import { SOURCES_MAX } from '../../content/pages/constants.ts';
import { CONTENT_KINDS } from '../../content/pages/store.ts';
import { ZSTD_MAX_LEVEL } from '../../wire/codec.ts';
import { migrationRecordSchema } from '../record.ts';
import { migrationStates, type MigrationState } from '../state.ts';

/** How a mover reaches the other mover: APs sit behind NAT and dial, the center listens behind its gateway. */
export const linkConfigSchema = z.discriminatedUnion('mode', [
  z.object({
    mode: z.literal('dial'),
    /** The other site's gateway, or that of `relay`, or (without a route) the other mover itself. */
    address: z.union([
      z.object({ host: z.string(), port: z.number().int(), relay: z.string().optional() }),
      z.object({ path: z.string() }),
    ]),
    route: z.string().optional(),
  }),
  /**
   * The gateway splices route `<basename of socketPath without .sock>` to this socket; a peer that cannot reach it comes through
   * the gateway of `relay`.
   */
  z.object({
    mode: z.literal('listen'),
    socketPath: z.string(),
    relay: z.object({ host: z.string(), port: z.number().int(), relay: z.string() }).optional(),
  }),
]);

/** PEM files. */
export const tlsConfigSchema = z.object({
  caPath: z.string(),
  certPath: z.string(),
  keyPath: z.string(),
  /** Who is let in of those whom the CA knows (link/allowed-peers.ts). */
  peersPath: z.string().optional(),
});

/**
 * How pages of memory, and blocks of the disk, travel. `content` refers to pages that the target has in files and repeats
 * those sent before; the rest goes as with `zstd`. The others send everything.
 */
export const codecSchema = z.enum(['raw', 'rle', 'zstd', 'content']);
export type Codec = z.infer<typeof codecSchema>;

const common = {
  migrationId: z.string().regex(/^[a-z0-9-]{1,64}$/),
  vmId: z.string(),
  siteId: z.string(),
  peerSiteId: z.string(),
  /** Where the mover serves its RPC to the agent, writes its log, and leaves `record.json` (source only). */
  rpcSocket: z.string(),
  logPath: z.string(),
  recordPath: z.string(),
  link: linkConfigSchema,
  tls: tlsConfigSchema,
  /** QMP monitor of this side's QEMU that belongs to the mover. */
  qmpSocket: z.string(),
  /** Unix socket of the QEMU migration stream: the source mover listens on it, the target's QEMU does. */
  streamSocket: z.string(),
  /** `ownership.json` of the VM at this site. */
  ownershipPath: z.string(),
  /**
   * Files whose pages the other side may have too (their folders hold, or get, indexes of them): the VM's base image, and
   * its residue at the target, of which the source has only the index.
   */
  content: z
    .array(
      z.object({
        kind: z.enum(CONTENT_KINDS).optional(),
        path: z.string().optional(),
        indexPath: z.string(),
      }),
    )
    .max(SOURCES_MAX)
    .optional(),
  /** Where the pages that travel are logged, to be residue; without it they are not. */
  contentLog: z.object({ folder: z.string(), maxBytes: z.number().nonnegative() }).optional(),
  /** How long the link may be silent before the switch until the attempt is given up. */
  linkLossTimeoutMs: z.number().positive(),
};

export const sourceMoverConfigSchema = z.object({
  role: z.literal('source'),
  ...common,
  overlayPath: z.string(),
  scheme: z.enum(['hybrid']),
  memoryCodec: codecSchema,
  diskCodec: codecSchema,
  /** Fixes the level at which round one is compressed; without it the level follows link and CPU. */
  zstdLevel: z.number().int().min(1).max(ZSTD_MAX_LEVEL).optional(),
  /**
   * From the request to the VM running at the target: round one is cut short for it, and post-copy has the rest. Null: it is
   * never cut short; undefined: where most of what is left need not travel.
   */
  switchBudgetMs: z.number().int().positive().nullable().optional(),
  /** Use QEMU's second channel for the pages that the target waits for; both sides' QEMU must know it. */
  preempt: z.boolean(),
  /** Unix time at which the user or an agent asked for the migration. */
  initiatedAtMs: z.number(),
  accelerator: z.string(),
  qemuVersion: z.string(),
  vm: z.object({
    name: z.string(),
    memoryMiB: z.number().int(),
    cpus: z.number().int(),
    image: z.string(),
    generation: z.number().int(),
  }),
});

export const targetMoverConfigSchema = z.object({
  role: z.literal('target'),
  ...common,
  /** NBD socket that the target's QEMU opens as the file of node `cow`; the mover creates it before it answers. */
  nbdSocket: z.string(),
  /** Empty qcow2 of the right virtual size at the start; the overlay, byte for byte, at the end. */
  overlayPath: z.string(),
  /** Takes the guest's writes until it is committed into the overlay. */
  topPath: z.string(),
  /** For `nbd-server-start` of the target's QEMU (which clusters has the guest written?). */
  allocationSocket: z.string(),
  /** Constant size that the NBD export announces: more than the overlay can reach. */
  exportSizeBytes: z.number().int().positive(),
  /** Generation that the hand-over must carry. */
  generation: z.number().int(),
});

export const moverConfigSchema = z.discriminatedUnion('role', [
  sourceMoverConfigSchema,
  targetMoverConfigSchema,
]);
export type SourceMoverConfig = z.infer<typeof sourceMoverConfigSchema>;
export type TargetMoverConfig = z.infer<typeof targetMoverConfigSchema>;
export type MoverConfig = z.infer<typeof moverConfigSchema>;

/**
 * What a mover tells its agent, on request (`status`) and by notification (`status`) on every change and while there
 * is progress. `released` at the source: the target is independent, this side's QEMU and files may go.
 * `running` at the target: the VM runs here and this site owns it.
 */
export const moverStatusSchema = z.object({
  migrationId: z.string(),
  role: z.enum(['source', 'target']),
  state: z.enum(migrationStates as readonly [MigrationState, ...MigrationState[]]),
  link: z.enum(['connecting', 'open', 'cut', 'closed']),
  progress: z.object({
    pagesDone: z.number(),
    pagesTotal: z.number(),
    blocksDone: z.number(),
    blocksTotal: z.number(),
    bytesSent: z.number(),
    rateMbit: z.number().nullable(),
  }),
  error: z.object({ code: z.string(), message: z.string(), remedy: z.string() }).nullable(),
  record: migrationRecordSchema.nullable(),
});
export type MoverStatus = z.infer<typeof moverStatusSchema>;
