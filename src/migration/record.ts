import * as z from 'zod';

const count = z.number().int().nonnegative();
const ms = z.number().nonnegative();

/**
 * The one immutable account of a migration; every figure shown anywhere is taken from it. The metrics are the
 * paper's (section V): downtime = STOP at the source to RESUME at the target, switch time = initiated to running at
 * the target, total time = initiated to independent of the source, bytes = everything on the wire, frames included.
 */
export const migrationRecordSchema = z.object({
  version: z.literal(1),
  migrationId: z.string(),
  ok: z.boolean(),
  /** Why it did not succeed. */
  error: z.object({ code: z.string(), message: z.string(), remedy: z.string() }).nullable(),
  scheme: z.string(),
  codecs: z.object({ memory: z.string(), disk: z.string() }),
  accelerator: z.string(),
  qemuVersion: z.string(),
  source: z.string(),
  target: z.string(),
  vm: z.object({
    id: z.string(),
    name: z.string(),
    memoryMiB: count,
    cpus: count,
    image: z.string(),
    overlayBytes: count,
    generation: count,
  }),
  /** The link as measured by the session; null where nothing was measured. */
  link: z.object({
    rateMbit: z.number().nullable(),
    rttMs: z.number().nullable(),
    clockOffsetMs: z.number().nullable(),
    cuts: count,
  }),
  /** Unix time of the request, and of QEMU's own STOP and RESUME events (the target's clock corrected by the offset). */
  initiatedAtMs: z.number(),
  stoppedAtMs: z.number().nullable(),
  resumedAtMs: z.number().nullable(),
  downtimeMs: ms.nullable(),
  switchTimeMs: ms.nullable(),
  totalTimeMs: ms.nullable(),
  /** True where QEMU had so little left that it completed as pre-copy, with no post-copied page. */
  completedAsPrecopy: z.boolean(),
  /** What the switch might take, if it was asked for; `pages.faulted` is what that cost. */
  switchBudgetMs: ms.nullable().default(null),
  /** Why round one was left unfinished: for the budget, or because leaving it cost the VM little. */
  roundOneCut: z.enum(['budget', 'early']).nullable().default(null),
  /** `roundOne`: of all of these what had gone when the VM could be stopped. */
  bytes: z.object({
    memory: count,
    disk: count,
    device: count,
    control: count,
    total: count,
    roundOne: count.default(0),
  }),
  /** What the same would have been without our encoding. */
  rawBytes: z.object({ memory: count, disk: count, device: count }),
  /**
   * How page records travelled: all zero, as bytes, as a reference to content of the target, as a repeat of a page sent
   * before. `fromResidue`: of the references, those to what the target kept of this VM. `resent`: references that had to
   * be sent after all. `postCopied` and `faulted` count across these.
   */
  pages: z.object({
    zero: count,
    sent: count,
    referenced: count.default(0),
    fromResidue: count.default(0),
    repeated: count.default(0),
    resent: count.default(0),
    postCopied: count,
    faulted: count,
  }),
  /** Levels of zstd at which round one was compressed, 0 for not at all; null where nothing was. */
  codecLevel: z.object({ min: count, max: count, last: count }).nullable().default(null),
  /** `referenced`: of those pushed and pulled the ones that came as references to content of the target. */
  blocks: z.object({
    sizeBytes: count,
    total: count,
    pushed: count,
    pulled: count,
    skipped: count,
    referenced: count.default(0),
  }),
  pullLatencyMs: z.object({ count, p50: ms.nullable(), p99: ms.nullable(), max: ms.nullable() }),
  /** Offsets from initiatedAtMs. */
  phases: z.array(z.object({ name: z.string(), startMs: ms, endMs: ms })),
  /** Frames whose decoded bytes were checked against their checksum at the target. */
  integrity: z.object({ checked: count, bad: count }),
  peakRssMiB: z.object({ source: z.number(), target: z.number() }),
});

export type MigrationRecord = z.infer<typeof migrationRecordSchema>;

/** Deep-freezes a checked record. */
export function sealRecord(record: MigrationRecord): Readonly<MigrationRecord> {
  const sealed = migrationRecordSchema.parse(record);
  const freeze = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    Object.freeze(value);
    for (const inner of Object.values(value)) freeze(inner);
  };
  freeze(sealed);
  return sealed;
}
