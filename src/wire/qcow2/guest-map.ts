import { Bitmap, MAX_BITMAP_BITS } from '../bitmap.ts';
import { fail } from './errors.ts';
import type { Qcow2Header } from './header.ts';
import { type ByteExtent, type ClusterEntry, fixedExtents, l2Extents, parseL2Entry } from './tables.ts';

/** Gives the bytes of the L2 table at a file offset. */
export type ReadL2 = (offsetBytes: number) => Buffer;

/**
 * From guest clusters to places in the image file, active layer only. `readL2` is called when a table is first
 * used and its answer kept, so memory grows to the size of the tables used.
 */
export class GuestMap {
  readonly header: Qcow2Header;
  readonly clusters: number;
  readonly #l1: readonly number[];
  readonly #readL2: ReadL2;
  readonly #tables = new Map<number, Buffer>();
  #shared: Bitmap | undefined;

  constructor(header: Qcow2Header, l1: readonly number[], readL2: ReadL2) {
    this.header = header;
    this.clusters = Math.ceil(header.virtualSizeBytes / header.clusterBytes);
    this.#l1 = l1;
    this.#readL2 = readL2;
  }

  /** @throws QCOW2_INVALID when the tables are malformed */
  cluster(index: number): ClusterEntry {
    if (!(index >= 0 && index < this.clusters)) throw new RangeError(`guest cluster ${index}`);
    const table = this.#table(Math.floor(index / this.header.l2Entries));
    return table ? parseL2Entry(this.header, table, index % this.header.l2Entries) : { kind: 'unallocated' };
  }

  /**
   * Where in the file a guest cluster has its data, when nothing else can be there: an uncompressed cluster whose
   * reference count is one (COPIED flag) and which no other entry or table of the image points to. Undefined when
   * that is not certain; always undefined for images with snapshots or with stale reference counts.
   * @throws QCOW2_INVALID, QCOW2_LIMIT
   */
  exclusiveExtent(index: number, fileSizeBytes: number): ByteExtent | undefined {
    const { header } = this;
    if (header.snapshotCount > 0 || header.dirty || header.corrupt) return undefined;
    const entry = this.cluster(index);
    if (entry.kind !== 'data' || !entry.exclusive) return undefined;
    this.#shared ??= this.#findShared(fileSizeBytes);
    const host = entry.hostOffsetBytes / header.clusterBytes;
    if (host >= this.#shared.length || this.#shared.test(host)) return undefined;
    return { offsetBytes: entry.hostOffsetBytes, lengthBytes: header.clusterBytes };
  }

  #table(l1Index: number): Buffer | undefined {
    const offset = this.#l1[l1Index] ?? 0;
    if (offset === 0) return undefined;
    const known = this.#tables.get(offset);
    if (known) return known;
    const table = this.#readL2(offset);
    this.#tables.set(offset, table);
    return table;
  }

  /** Host clusters that more than one thing uses. The COPIED flag should have told; a skip may not trust it alone. */
  #findShared(fileSizeBytes: number): Bitmap {
    const { header } = this;
    const hosts = Math.ceil(fileSizeBytes / header.clusterBytes);
    if (hosts > MAX_BITMAP_BITS) throw fail('QCOW2_LIMIT', `${hosts} clusters`);
    const used = new Bitmap(hosts);
    const shared = new Bitmap(hosts);
    const use = (extent: ByteExtent): void => {
      const end = Math.ceil((extent.offsetBytes + extent.lengthBytes) / header.clusterBytes);
      for (
        let host = Math.floor(extent.offsetBytes / header.clusterBytes);
        host < Math.min(end, hosts);
        host++
      ) {
        if (!used.set(host)) shared.set(host);
      }
    };
    for (const extent of [...fixedExtents(header), ...l2Extents(header, this.#l1)]) use(extent);
    for (let l1Index = 0; l1Index < this.#l1.length; l1Index++) {
      const table = this.#table(l1Index);
      if (!table) continue;
      for (let i = 0; i < header.l2Entries; i++) {
        const entry = parseL2Entry(header, table, i);
        if (entry.kind === 'unallocated' || entry.hostOffsetBytes === undefined) continue;
        const lengthBytes = entry.kind === 'compressed' ? entry.lengthBytes : header.clusterBytes;
        use({ offsetBytes: entry.hostOffsetBytes, lengthBytes });
        // Compressed clusters share host clusters with each other by design: never exclusive.
        if (entry.kind === 'compressed') use({ offsetBytes: entry.hostOffsetBytes, lengthBytes });
      }
    }
    return shared;
  }
}
