import {
  INCOMPATIBLE_COMPRESSION,
  INCOMPATIBLE_CORRUPT,
  INCOMPATIBLE_DATA_FILE,
  INCOMPATIBLE_DIRTY,
  INCOMPATIBLE_EXTENDED_L2,
  MAX_BACKING_NAME_BYTES,
  MAX_CLUSTER_BITS,
  MAX_L1_BYTES,
  MAX_REFCOUNT_TABLE_BYTES,
  MAX_VIRTUAL_BYTES,
  MIN_CLUSTER_BITS,
  QCOW2_MAGIC,
  V2_HEADER_BYTES,
  V3_HEADER_BYTES,
} from './constants.ts';
import { fail } from './errors.ts';

/** What we use of a qcow2 header (QEMU docs/interop/qcow2.txt). */
export interface Qcow2Header {
  version: 2 | 3;
  clusterBits: number;
  clusterBytes: number;
  virtualSizeBytes: number;
  /** As written in the header; undefined for a standalone image. */
  backingFile: string | undefined;
  l1OffsetBytes: number;
  l1Entries: number;
  refcountTableOffsetBytes: number;
  refcountTableBytes: number;
  snapshotCount: number;
  /** The image was not closed, its reference counts may be stale (lazy refcounts). Not refused: bytes move as they are. */
  dirty: boolean;
  /** QEMU found it damaged and opens it read-only. Not refused here: the caller decides. */
  corrupt: boolean;
  extendedL2: boolean;
  /** 8, or 16 with extended L2. */
  l2EntryBytes: number;
  l2Entries: number;
}

const KNOWN_INCOMPATIBLE =
  INCOMPATIBLE_DIRTY |
  INCOMPATIBLE_CORRUPT |
  INCOMPATIBLE_DATA_FILE |
  INCOMPATIBLE_COMPRESSION |
  INCOMPATIBLE_EXTENDED_L2;

function readOffset(bytes: Buffer, at: number, what: string): number {
  const value = bytes.readBigUInt64BE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw fail('QCOW2_INVALID', `${what} ${value}`);
  return Number(value);
}

function readFeatures(bytes: Buffer): number {
  const features = bytes.readBigUInt64BE(72);
  if ((features & ~BigInt(KNOWN_INCOMPATIBLE)) !== 0n) {
    throw fail('QCOW2_UNSUPPORTED', `incompatible features 0x${features.toString(16)}`);
  }
  const known = Number(features);
  if (known & INCOMPATIBLE_DATA_FILE) throw fail('QCOW2_UNSUPPORTED', 'an external data file');
  return known;
}

function readBackingFile(bytes: Buffer, clusterBytes: number): string | undefined {
  const offset = readOffset(bytes, 8, 'backing file offset');
  const length = bytes.readUInt32BE(16);
  if (offset === 0) return undefined;
  if (length > MAX_BACKING_NAME_BYTES) throw fail('QCOW2_INVALID', `backing file name of ${length} bytes`);
  const end = offset + length;
  if (end > clusterBytes || end > bytes.length) {
    throw fail('QCOW2_INVALID', 'backing file name outside of the first cluster');
  }
  return bytes.toString('utf8', offset, end);
}

/**
 * Parses the header from the beginning of a file: give the whole first cluster if there is one.
 * @throws QCOW2_INVALID, QCOW2_UNSUPPORTED (encryption, external data file, unknown features), QCOW2_LIMIT
 */
export function parseQcow2Header(bytes: Buffer): Qcow2Header {
  if (bytes.length < V2_HEADER_BYTES) throw fail('QCOW2_INVALID', `${bytes.length} bytes`);
  if (bytes.readUInt32BE(0) !== QCOW2_MAGIC) throw fail('QCOW2_INVALID', 'no qcow2 magic');
  const version = bytes.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw fail('QCOW2_UNSUPPORTED', `version ${version}`);
  if (version === 3 && bytes.length < V3_HEADER_BYTES) throw fail('QCOW2_INVALID', 'truncated header');
  const features = version === 3 ? readFeatures(bytes) : 0;
  const extendedL2 = (features & INCOMPATIBLE_EXTENDED_L2) !== 0;

  const clusterBits = bytes.readUInt32BE(20);
  const minBits = extendedL2 ? 14 : MIN_CLUSTER_BITS;
  if (clusterBits < minBits || clusterBits > MAX_CLUSTER_BITS) {
    throw fail('QCOW2_INVALID', `cluster bits ${clusterBits}`);
  }
  const clusterBytes = 2 ** clusterBits;
  if (bytes.readUInt32BE(32) !== 0) throw fail('QCOW2_UNSUPPORTED', 'encryption');

  const virtualSizeBytes = readOffset(bytes, 24, 'virtual size');
  if (virtualSizeBytes > MAX_VIRTUAL_BYTES) throw fail('QCOW2_LIMIT', `virtual size ${virtualSizeBytes}`);
  const l1Entries = bytes.readUInt32BE(36);
  if (l1Entries * 8 > MAX_L1_BYTES) throw fail('QCOW2_LIMIT', `L1 table of ${l1Entries} entries`);
  const l2EntryBytes = extendedL2 ? 16 : 8;
  const l2Entries = clusterBytes / l2EntryBytes;
  if (l1Entries * l2Entries * clusterBytes < virtualSizeBytes) {
    throw fail('QCOW2_INVALID', `L1 table of ${l1Entries} entries is too small for the disk`);
  }
  const l1OffsetBytes = readOffset(bytes, 40, 'L1 offset');
  const refcountTableOffsetBytes = readOffset(bytes, 48, 'refcount table offset');
  const refcountTableBytes = bytes.readUInt32BE(56) * clusterBytes;
  if (refcountTableBytes > MAX_REFCOUNT_TABLE_BYTES) {
    throw fail('QCOW2_LIMIT', `refcount table of ${refcountTableBytes} bytes`);
  }
  if (l1OffsetBytes % clusterBytes !== 0 || refcountTableOffsetBytes % clusterBytes !== 0) {
    throw fail('QCOW2_INVALID', 'a table does not begin at a cluster');
  }
  return {
    version,
    clusterBits,
    clusterBytes,
    virtualSizeBytes,
    backingFile: readBackingFile(bytes, clusterBytes),
    l1OffsetBytes,
    l1Entries,
    refcountTableOffsetBytes,
    refcountTableBytes,
    snapshotCount: bytes.readUInt32BE(60),
    dirty: (features & INCOMPATIBLE_DIRTY) !== 0,
    corrupt: (features & INCOMPATIBLE_CORRUPT) !== 0,
    extendedL2,
    l2EntryBytes,
    l2Entries,
  };
}
