import { readSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import type { Run } from '../../wire/bitmap.ts';
import { MAX_METADATA_BYTES, SECTOR_BYTES, runBytes, sectorsOf } from '../../wire/disk/index.ts';
import {
  type ByteExtent,
  type Qcow2Header,
  fixedExtents,
  l2Extents,
  mergeExtents,
  parseL1,
  parseQcow2Header,
} from '../../wire/qcow2/index.ts';
import { fail } from './errors.ts';

/** Enough for the header, its extensions and the backing file's name, unless clusters are larger. */
const FIRST_READ_BYTES = 64 * 1024;

/** Reads exactly this part of a file. @throws DISK_READ_FAILED, DISK_SOURCE_CHANGED (the file ends before) */
export async function readExactly(
  file: FileHandle,
  offsetBytes: number,
  lengthBytes: number,
): Promise<Buffer> {
  const data = Buffer.allocUnsafe(lengthBytes);
  let done = 0;
  while (done < lengthBytes) {
    let bytesRead: number;
    try {
      ({ bytesRead } = await file.read(data, done, lengthBytes - done, offsetBytes + done));
    } catch (cause) {
      throw readFailed(offsetBytes + done, { offsetBytes, lengthBytes }, cause);
    }
    if (bytesRead === 0) throw fail('DISK_SOURCE_CHANGED', `the file ends at ${offsetBytes + done}`);
    done += bytesRead;
  }
  return data;
}

/**
 * As `readExactly`, without a trip through the thread pool: for the little of the overlay that is read while the VM
 * stands still, and stands in the page cache since `DiskSource.ahead`.
 */
function readNow(file: FileHandle, offsetBytes: number, lengthBytes: number): Buffer {
  const data = Buffer.allocUnsafe(lengthBytes);
  let done = 0;
  while (done < lengthBytes) {
    let bytesRead: number;
    try {
      bytesRead = readSync(file.fd, data, done, lengthBytes - done, offsetBytes + done);
    } catch (cause) {
      throw readFailed(offsetBytes + done, { offsetBytes, lengthBytes }, cause);
    }
    if (bytesRead === 0) throw fail('DISK_SOURCE_CHANGED', `the file ends at ${offsetBytes + done}`);
    done += bytesRead;
  }
  return data;
}

function readFailed(atBytes: number, fields: Record<string, number>, cause: unknown): Error {
  return fail('DISK_READ_FAILED', `at ${atBytes}`, { cause, fields });
}

export function readRunNow(file: FileHandle, run: Run, fileSizeBytes: number): Buffer {
  return readNow(file, run.first * SECTOR_BYTES, runBytes(run, fileSizeBytes));
}

export function readRunOf(file: FileHandle, run: Run, fileSizeBytes: number): Promise<Buffer> {
  return readExactly(file, run.first * SECTOR_BYTES, runBytes(run, fileSizeBytes));
}

/** Parses the header of a qcow2 file. @throws QCOW2_INVALID, QCOW2_UNSUPPORTED, QCOW2_LIMIT */
function readHeader(file: FileHandle, fileSizeBytes: number): Qcow2Header {
  const head = readNow(file, 0, Math.min(fileSizeBytes, FIRST_READ_BYTES));
  const clusterBits = head.length >= 24 ? head.readUInt32BE(20) : 0;
  if (2 ** clusterBits <= head.length || clusterBits > 21) return parseQcow2Header(head);
  return parseQcow2Header(readNow(file, 0, Math.min(fileSizeBytes, 2 ** clusterBits)));
}

/**
 * The sectors that a target needs before its QEMU opens the image: header, L1, refcount table (read at every opening)
 * and the L2 tables, as many as MAX_METADATA_BYTES allows. Sorted, apart from each other.
 * @throws QCOW2_*, DISK_READ_FAILED
 */
export function readMetadataRuns(file: FileHandle, fileSizeBytes: number): Run[] {
  const header = readHeader(file, fileSizeBytes);
  if (header.l1OffsetBytes + header.l1Entries * 8 > fileSizeBytes) {
    throw fail('DISK_READ_FAILED', 'the L1 table is not within the file');
  }
  const l1 = parseL1(header, readNow(file, header.l1OffsetBytes, header.l1Entries * 8));
  const extents: ByteExtent[] = fixedExtents(header);
  let budgetBytes =
    MAX_METADATA_BYTES - extents.reduce((sum, e) => sum + e.lengthBytes + 2 * SECTOR_BYTES, 0);
  for (const extent of l2Extents(header, l1)) {
    // A table smaller than a sector may take two.
    budgetBytes -= extent.lengthBytes < SECTOR_BYTES ? 2 * SECTOR_BYTES : extent.lengthBytes;
    if (budgetBytes < 0) break;
    extents.push(extent);
  }
  return sectorRuns(extents, fileSizeBytes);
}

/** The sectors that extents touch. */
function sectorRuns(extents: readonly ByteExtent[], fileSizeBytes: number): Run[] {
  const rounded = extents.map((extent) => {
    const first = Math.floor(extent.offsetBytes / SECTOR_BYTES);
    const end = Math.ceil((extent.offsetBytes + extent.lengthBytes) / SECTOR_BYTES);
    return { offsetBytes: first, lengthBytes: end - first };
  });
  return mergeExtents(rounded, sectorsOf(fileSizeBytes)).map((extent) => ({
    first: extent.offsetBytes,
    count: extent.lengthBytes,
  }));
}
