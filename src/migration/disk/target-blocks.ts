import { Bitmap, type Run } from '../../wire/bitmap.ts';
import { SECTOR_BYTES } from '../../wire/disk/index.ts';
import type { ByteExtent } from '../../wire/qcow2/index.ts';
import { fail } from './errors.ts';
import type { DiskBlocks } from './types.ts';

/** The target's block bitmap: which sectors are here, which are not, and how they came. */
export class TargetBlocks {
  readonly total: number;
  readonly dirty: Bitmap;
  /** Not in the local file and not to come; a read that hits one all the same is pulled. */
  readonly skipped: Bitmap;
  readonly #counts = { pushed: 0, pulled: 0, metadata: 0, dropped: 0, referenced: 0 };
  /** Metadata that has been received, landed or not; only while freezing. */
  #announced: Bitmap;

  constructor(sectors: number) {
    this.total = sectors;
    this.dirty = new Bitmap(sectors, true);
    this.skipped = new Bitmap(sectors);
    this.#announced = new Bitmap(sectors);
  }

  /** Whether any of `first` .. `end - 1` is not in the local file. */
  missing(first: number, end: number): boolean {
    return this.dirty.anySet(first, end) || (this.skipped.count > 0 && this.skipped.anySet(first, end));
  }

  /** Whether all of an extent of the file is local; what lies past the file's end is. */
  landed(extent: ByteExtent): boolean {
    const end = Math.min(Math.ceil((extent.offsetBytes + extent.lengthBytes) / SECTOR_BYTES), this.total);
    const first = Math.floor(extent.offsetBytes / SECTOR_BYTES);
    return first >= end || !this.missing(first, end);
  }

  /** Takes note of metadata as it arrives. @throws DISK_OVERLAP: it came before, or it is more than `limit` */
  announce({ first, count }: Run, limit: number): void {
    if (this.#announced.count + count > limit || this.#announced.anySet(first, first + count)) {
      throw fail('DISK_OVERLAP', `${count} sectors at ${first}`, { fields: { first, count } });
    }
    this.#announced.setRange(first, first + count);
  }

  /** The end of freezing: metadata that was announced and has not landed, because it was damaged. */
  lostMetadata(): Run[] {
    const lost = [...this.#announced.runs()].flatMap(({ first, count }) => [
      ...this.dirty.runs(first, first + count),
    ]);
    this.#announced = new Bitmap(0);
    return lost;
  }

  /** The parts of a run that are dirty, or were skipped and are being read all the same (`pulled`). */
  wanted(run: Run, pulled: (sector: number) => boolean): Run[] {
    const end = run.first + run.count;
    const wanted = [...this.dirty.runs(run.first, end)];
    if (this.skipped.count === 0) return wanted;
    for (const skipped of this.skipped.runs(run.first, end)) {
      for (let sector = skipped.first; sector < skipped.first + skipped.count; sector++) {
        if (pulled(sector)) wanted.push({ first: sector, count: 1 });
      }
    }
    return wanted;
  }

  /** A run is in the local file. Sectors that a skip took meanwhile count as landed, not as skipped. */
  land({ first, count }: Run, kind: 'pushed' | 'pulled' | 'metadata'): void {
    this.skipped.clearRange(first, first + count);
    this.dirty.clearRange(first, first + count);
    this.#counts[kind] += count;
  }

  /** Of the sectors that have landed these came as references. */
  referred(sectors: number): void {
    this.#counts.referenced += sectors;
  }

  drop(sectors: number): void {
    this.#counts.dropped += sectors;
  }

  /** Skips the dirty ones of `runs` except those `pulled`. @returns what was skipped, ascending and apart */
  skip(runs: readonly Run[], pulled: (sector: number) => boolean): Run[] {
    const sectors: number[] = [];
    for (const run of runs) {
      for (const dirty of this.dirty.runs(run.first, run.first + run.count)) {
        for (let sector = dirty.first; sector < dirty.first + dirty.count; sector++) {
          if (!pulled(sector) && this.dirty.clear(sector)) sectors.push(sector);
        }
      }
    }
    const skipped: Run[] = [];
    for (const sector of sectors.sort((a, b) => a - b)) {
      this.skipped.set(sector);
      const last = skipped.at(-1);
      if (last && last.first + last.count === sector) last.count++;
      else skipped.push({ first: sector, count: 1 });
    }
    return skipped;
  }

  stats(): DiskBlocks & { dropped: number; referenced: number } {
    return {
      ...this.#counts,
      skipped: this.skipped.count,
      dirty: this.dirty.count,
      total: this.total,
    };
  }
}
