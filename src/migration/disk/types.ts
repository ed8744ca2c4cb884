import type { Pace } from '../pace.ts';
import type { LinkSession } from '../../link/types.ts';
import type { CodecId } from '../../wire/codec.ts';
import type { LatencySummary } from './histogram.ts';
import type { DiskNotes } from './noted.ts';

/** What a disk's transfer needs of the link. */
export type DiskLink = Pick<LinkSession, 'send'>;

export interface DiskSourceOptions {
  /** The overlay file. Nobody may write it any more: open after the source QEMU has inactivated its images. */
  path: string;
  link: DiskLink;
  /** Number of the disk within the migration (0..255), 0 by default. */
  disk?: number;
  /** For pushes and answers; `rle` (the paper's) by default. */
  codec?: CodecId;
  /** `raw` has no metadata that must go ahead. */
  format?: 'qcow2' | 'raw';
  notes?: DiskNotes | undefined;
  /** How fast the push may go once the VM runs at the target. */
  pace?: Pace | undefined;
  signal?: AbortSignal;
}

export interface DiskTargetOptions {
  /** An existing file, readable and writable: its bytes are served until the freeze, then it is emptied. */
  path: string;
  link: DiskLink;
  /** What `sizeBytes` says throughout: at least what the overlay can reach until the source stops. */
  announcedSizeBytes: number;
  /** Number of the disk within the migration (0..255), 0 by default. */
  disk?: number;
  notes?: DiskNotes | undefined;
  signal?: AbortSignal;
  /** Milliseconds of a monotonic clock; for tests. */
  now?: () => number;
}

/** What `DiskSource.freeze` has sent. */
export interface FreezeReport {
  fileSizeBytes: number;
  metadataBytes: number;
  /** Messages of the freeze as given to the link. */
  encodedBytes: number;
}

/** Sectors of 4 KiB, each counted once: pushed + pulled + skipped + metadata + dirty = total. */
export interface DiskBlocks {
  pushed: number;
  pulled: number;
  skipped: number;
  metadata: number;
  dirty: number;
  total: number;
}

export interface DiskSourceStats {
  /** Counted when the source clears the bit; `resent` are answers to pulls with `again`, `referenced` were sent so. */
  blocks: DiskBlocks & { resent: number; referenced: number };
  /** Data before packing, and messages as given to the link. */
  bytes: { raw: number; encoded: number };
}

export interface DiskTargetStats {
  /**
   * Counted when the sector has landed; `dropped` arrived although nobody needed them. `referenced`: of those pushed and
   * pulled the ones that came as references.
   */
  blocks: DiskBlocks & { dropped: number; referenced: number };
  /** Data after unpacking, and data messages as they came from the link. */
  bytes: { raw: number; encoded: number };
  /** From read() to the data being there, of reads that had to wait for the source. */
  pullLatency: LatencySummary;
  /** Data frames verified, and those whose checksum was wrong (they were asked for again). */
  checkedFrames: number;
  badFrames: number;
}
