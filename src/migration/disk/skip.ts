import type { Run } from '../../wire/bitmap.ts';
import { Bitmap } from '../../wire/bitmap.ts';
import { SECTOR_BYTES, sectorsOf } from '../../wire/disk/index.ts';
import {
  type ByteExtent,
  GuestMap,
  fixedExtents,
  l2Extents,
  parseL1,
  parseQcow2Header,
} from '../../wire/qcow2/index.ts';

/** What the planner reads the overlay with; `landed` says whether all of an extent is in the local file. */
export interface OverlayReader {
  fileSizeBytes: number;
  read(offsetBytes: number, lengthBytes: number): Buffer;
  landed(extent: ByteExtent): boolean;
}

/** Finds the sectors of the overlay that nobody will read, given what the guest has written over (the paper's syn). */
export class SkipPlanner {
  readonly #overlay: OverlayReader;
  #map: GuestMap | undefined;
  #handled = new Bitmap(0);

  constructor(overlay: OverlayReader) {
    this.#overlay = overlay;
  }

  /**
   * The sectors that lie wholly in data clusters whose guest clusters are wholly covered by `written`; clusters that
   * were given before are left out. Undefined while the tables have not all landed: ask again later.
   * @throws QCOW2_*
   */
  plan(written: readonly ByteExtent[]): Run[] | undefined {
    this.#map ??= this.#load();
    const map = this.#map;
    if (!map) return undefined;
    const { clusterBytes, virtualSizeBytes } = map.header;
    const runs: Run[] = [];
    for (const extent of written) {
      const end = extent.offsetBytes + extent.lengthBytes;
      const first = Math.ceil(extent.offsetBytes / clusterBytes);
      const stop = end >= virtualSizeBytes ? map.clusters : Math.floor(end / clusterBytes);
      for (let cluster = first; cluster < stop; cluster++) {
        if (!this.#handled.set(cluster)) continue;
        const place = map.exclusiveExtent(cluster, this.#overlay.fileSizeBytes);
        const run = place && innerSectors(place, this.#overlay.fileSizeBytes);
        if (run) runs.push(run);
      }
    }
    return runs;
  }

  #load(): GuestMap | undefined {
    const { fileSizeBytes } = this.#overlay;
    const missing = (extents: readonly ByteExtent[]): boolean =>
      !extents.every((e) => this.#overlay.landed(e));
    if (missing([{ offsetBytes: 0, lengthBytes: Math.min(fileSizeBytes, SECTOR_BYTES) }])) return undefined;
    const headBytes = 2 ** (this.#overlay.read(20, 4).readUInt32BE(0) & 31);
    const head = { offsetBytes: 0, lengthBytes: Math.min(fileSizeBytes, headBytes) };
    if (missing([head])) return undefined;
    const header = parseQcow2Header(this.#overlay.read(0, Math.max(head.lengthBytes, 512)));
    if (missing(fixedExtents(header))) return undefined;
    const l1 = parseL1(header, this.#overlay.read(header.l1OffsetBytes, header.l1Entries * 8));
    if (missing(l2Extents(header, l1))) return undefined;
    const map = new GuestMap(header, l1, (offset) => this.#overlay.read(offset, header.clusterBytes));
    this.#handled = new Bitmap(map.clusters);
    return map;
  }
}

/** The sectors wholly inside of an extent; the last sector of a file may be shorter. */
function innerSectors(extent: ByteExtent, fileSizeBytes: number): Run | undefined {
  const end = extent.offsetBytes + extent.lengthBytes;
  const first = Math.ceil(extent.offsetBytes / SECTOR_BYTES);
  const stop = end >= fileSizeBytes ? sectorsOf(fileSizeBytes) : Math.floor(end / SECTOR_BYTES);
  return stop > first ? { first, count: stop - first } : undefined;
}
