import { SUBCLUSTERS } from './constants.ts';
import { fail } from './errors.ts';
import type { Qcow2Header } from './header.ts';

/** Bytes `offsetBytes` .. `offsetBytes + lengthBytes - 1` of a file or of the guest's disk; the context says which. */
export interface ByteExtent {
  offsetBytes: number;
  lengthBytes: number;
}

/** Where the bytes of one guest cluster are. */
export type ClusterEntry =
  /** Read from the backing file. */
  | { kind: 'unallocated' }
  /** Reads as zeros, whatever `hostOffsetBytes` (a preallocated cluster) may hold. */
  | { kind: 'zero'; hostOffsetBytes: number | undefined }
  | { kind: 'compressed'; hostOffsetBytes: number; lengthBytes: number }
  | {
      kind: 'data';
      hostOffsetBytes: number;
      /** The COPIED flag: the reference count is exactly one. */
      exclusive: boolean;
      /** With extended L2 entries: bit n says that subcluster n is allocated here / reads as zeros. */
      subclusters: { allocated: number; zero: number } | undefined;
    };

const OFFSET_HIGH_MASK = 0x00ffffff;
const COPIED_HIGH = 0x80000000;
const COMPRESSED_HIGH = 0x40000000;

/** Bits 9..55 of an entry; 2^56 is beyond safe integers, so that is refused. */
function hostOffset(high: number, low: number, header: Qcow2Header): number {
  const offset = (high & OFFSET_HIGH_MASK) * 2 ** 32 + ((low & ~0x1ff) >>> 0);
  if (!Number.isSafeInteger(offset)) throw fail('QCOW2_INVALID', 'an offset beyond 2^53');
  if (offset % header.clusterBytes !== 0) throw fail('QCOW2_INVALID', `cluster at ${offset} is not aligned`);
  return offset;
}

/** Parses an L1 table: the file offset of each L2 table, 0 where there is none. @throws QCOW2_INVALID */
export function parseL1(header: Qcow2Header, table: Buffer): number[] {
  if (table.length < header.l1Entries * 8) throw fail('QCOW2_INVALID', 'truncated L1 table');
  const offsets: number[] = [];
  for (let i = 0; i < header.l1Entries; i++) {
    offsets.push(hostOffset(table.readUInt32BE(i * 8), table.readUInt32BE(i * 8 + 4), header));
  }
  return offsets;
}

function parseCompressed(header: Qcow2Header, high: number, low: number): ClusterEntry {
  const x = 62n - BigInt(header.clusterBits - 8);
  const word = (BigInt(high & 0x3fffffff) << 32n) | BigInt(low);
  const offset = word & ((1n << x) - 1n);
  if (offset > BigInt(Number.MAX_SAFE_INTEGER)) throw fail('QCOW2_INVALID', 'an offset beyond 2^53');
  const sectors = Number(word >> x) + 1;
  const hostOffsetBytes = Number(offset);
  return { kind: 'compressed', hostOffsetBytes, lengthBytes: sectors * 512 - (hostOffsetBytes % 512) };
}

function parseExtended(header: Qcow2Header, table: Buffer, at: number): ClusterEntry {
  const high = table.readUInt32BE(at);
  const offset = hostOffset(high, table.readUInt32BE(at + 4), header);
  const zero = table.readUInt32BE(at + 8);
  const allocated = table.readUInt32BE(at + 12);
  if (zero & allocated) throw fail('QCOW2_INVALID', 'a subcluster is both allocated and zero');
  if (offset === 0) {
    if (allocated !== 0) throw fail('QCOW2_INVALID', 'subclusters allocated in no cluster');
    if (zero === 0) return { kind: 'unallocated' };
    if (zero === 0xffffffff) return { kind: 'zero', hostOffsetBytes: undefined };
  }
  return {
    kind: 'data',
    hostOffsetBytes: offset,
    exclusive: (high & COPIED_HIGH) !== 0,
    subclusters: { allocated, zero },
  };
}

/** Parses entry `index` of an L2 table. @throws QCOW2_INVALID */
export function parseL2Entry(header: Qcow2Header, table: Buffer, index: number): ClusterEntry {
  const at = index * header.l2EntryBytes;
  if (at + header.l2EntryBytes > table.length) throw fail('QCOW2_INVALID', 'truncated L2 table');
  const high = table.readUInt32BE(at);
  const low = table.readUInt32BE(at + 4);
  if (high & COMPRESSED_HIGH) return parseCompressed(header, high, low);
  if (header.extendedL2) return parseExtended(header, table, at);
  const offset = hostOffset(high, low, header);
  // Bit 0 is reserved in version 2, where it must be zero.
  if (low & 1 && header.version === 3) return { kind: 'zero', hostOffsetBytes: offset || undefined };
  if (offset === 0) return { kind: 'unallocated' };
  return {
    kind: 'data',
    hostOffsetBytes: offset,
    exclusive: (high & COPIED_HIGH) !== 0,
    subclusters: undefined,
  };
}

/** Sorted, clipped to `limitBytes`, touching and overlapping ones joined, empty ones left out. */
export function mergeExtents(extents: readonly ByteExtent[], limitBytes: number): ByteExtent[] {
  const sorted = extents.toSorted((a, b) => a.offsetBytes - b.offsetBytes);
  const merged: ByteExtent[] = [];
  for (const extent of sorted) {
    const end = Math.min(extent.offsetBytes + extent.lengthBytes, limitBytes);
    if (end <= extent.offsetBytes) continue;
    const last = merged.at(-1);
    if (last && extent.offsetBytes <= last.offsetBytes + last.lengthBytes) {
      last.lengthBytes = Math.max(last.lengthBytes, end - last.offsetBytes);
    } else {
      merged.push({ offsetBytes: extent.offsetBytes, lengthBytes: end - extent.offsetBytes });
    }
  }
  return merged;
}

/** Header cluster, L1 table and refcount table: what every opening of the image reads (qcow2_do_open). */
export function fixedExtents(header: Qcow2Header): ByteExtent[] {
  return [
    { offsetBytes: 0, lengthBytes: header.clusterBytes },
    { offsetBytes: header.l1OffsetBytes, lengthBytes: header.l1Entries * 8 },
    { offsetBytes: header.refcountTableOffsetBytes, lengthBytes: header.refcountTableBytes },
  ];
}

/** All L2 tables, in the order of the L1 table. */
export function l2Extents(header: Qcow2Header, l1: readonly number[]): ByteExtent[] {
  return l1
    .filter((offset) => offset !== 0)
    .map((offset) => ({ offsetBytes: offset, lengthBytes: header.clusterBytes }));
}

/** What subcluster `index` of a data cluster is; a cluster without subclusters is data throughout. */
export function subclusterKind(
  entry: Extract<ClusterEntry, { kind: 'data' }>,
  index: number,
): 'data' | 'zero' | 'unallocated' {
  if (!entry.subclusters) return 'data';
  if (index < 0 || index >= SUBCLUSTERS) throw new RangeError(`subcluster ${index}`);
  if ((entry.subclusters.allocated >>> index) & 1) return 'data';
  return (entry.subclusters.zero >>> index) & 1 ? 'zero' : 'unallocated';
}
