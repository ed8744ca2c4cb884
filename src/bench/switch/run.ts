import type { Limit } from './use.ts';

export const benchCodecs = ['rle', 'zstd', 'content'] as const;
export type BenchCodec = (typeof benchCodecs)[number];

/**
 * `cold`: booted normally, base image at both sites. `busy`: the same, under the guest's self-checking workload. `home`:
 * back to the site that it came from, after some use at the other. `template`: started from a template that both sites
 * have, then used.
 */
export const benchCases = ['cold', 'busy', 'home', 'template'] as const;
export type BenchCase = (typeof benchCases)[number];

/** One migration, ours or stock QEMU's, as the table and the JSON report need it. */
export interface SwitchRun {
  /** Codec of ours; `stock` for QEMU's own hybrid. */
  readonly scheme: BenchCodec | 'stock';
  readonly case: BenchCase;
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
  /** Longest time in which a client that asks every 5 ms got no answer of the guest. */
  readonly serviceGapMs: number;
  /** Of the link, ours: half of the least round trip that the session saw. It is part of the downtime. */
  readonly oneWayDelayMs?: number;
  readonly completedAsPrecopy: boolean;
  /** Offsets from the beginning. */
  readonly phases: readonly { readonly name: string; readonly startMs: number; readonly endMs: number }[];
  /** Ours: reads of the guest that waited for the source, and the size of the overlay. */
  readonly pulls?: { count: number; p50: number | null; p99: number | null; max: number | null };
  readonly overlayBytes?: number;
  /** Ours: what round one waited for. */
  readonly limit?: Limit;
  /** Load average of the last minute when it began. */
  readonly loadAverage: number;
  readonly details: Readonly<Record<string, unknown>>;
}
