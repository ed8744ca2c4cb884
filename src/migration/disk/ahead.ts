import type { Run } from '../../wire/bitmap.ts';
import * as disk from '../../wire/disk/index.ts';
import { fail } from './errors.ts';

interface Kept {
  readonly frame: disk.DataFrame;
  /** Undefined: zeros. */
  readonly data: Buffer | undefined;
}

/** Metadata that came before the freeze, unpacked and checked. */
export class AheadMetadata {
  readonly #kept = new Map<number, Kept>();
  #bytes = 0;

  /** @throws DISK_LIMIT: more than may be kept; DISK_ORDER: names content, which is not here yet */
  reserve({ codec, run }: disk.DataFrame): void {
    if (codec === disk.CODEC_CONTENT) throw fail('DISK_ORDER', 'AHEAD that names content');
    this.#bytes += run.count * disk.SECTOR_BYTES;
    if (this.#bytes > disk.MAX_AHEAD_BYTES)
      throw fail('DISK_LIMIT', `${this.#bytes} bytes of metadata ahead`);
  }

  /** A later one takes the place of an earlier one. */
  keep(frame: disk.DataFrame, data: Buffer | undefined): void {
    this.#kept.set(frame.run.first, { frame, data });
  }

  /** Undefined where it has not come, or not sound, or is another one. */
  find(run: Run, crc: number): Kept | undefined {
    const kept = this.#kept.get(run.first);
    return kept?.frame.run.count === run.count && kept.frame.crc === crc ? kept : undefined;
  }

  clear(): void {
    this.#kept.clear();
  }
}
