export const benchCodecs = ['rle', 'zstd', 'content'] as const;
export type BenchCodec = (typeof benchCodecs)[number];

/** One migration, ours or stock QEMU's, as the table and the JSON report need it. */
export interface SwitchRun {
  /** Codec of ours; `stock` for QEMU's own hybrid. */
  readonly scheme: BenchCodec | 'stock';
  readonly load: 'idle' | 'busy';
  readonly run: number;
  /** Ours: initiated to running at the target. Stock: `migrate` to RESUME, the mirror's copy not counted. */
  readonly switchTimeMs: number;
  /** STOP at the source to RESUME at the target. Stock: without the pause in which the mirror is finished. */
  readonly downtimeMs: number;
  /** Initiated (stock: mirror started) to independent of the source. */
  readonly totalTimeMs: number;
  /** Ours: the record's total. Stock: what entered the link, both directions. */
  readonly migratedBytes: number;
  /** What entered the link, both directions: TLS, packet headers and acknowledgements included where there are any. */
  readonly linkBytes: number;
  readonly completedAsPrecopy: boolean;
  /** Offsets from the beginning. */
  readonly phases: readonly { readonly name: string; readonly startMs: number; readonly endMs: number }[];
  /** Ours: reads of the guest that waited for the source, and the size of the overlay. */
  readonly pulls?: { count: number; p50: number | null; p99: number | null; max: number | null };
  readonly overlayBytes?: number;
  /** Load average of the last minute when it began. */
  readonly loadAverage: number;
  readonly details: Readonly<Record<string, unknown>>;
}
