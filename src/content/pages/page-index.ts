/**
 * Page index of a file: which 4 KiB pages it holds. It is a pure function of the file, so that two sites that hold the
 * same file have the same index, and know it by comparing its digest. Little endian, columns for typed arrays:
 *
 *    0  8     "CAPPAGES"
 *    8  u32   version, 1
 *   12  u32   bytes of a page, 4096
 *   16  u32   hash: 1 = the first 16 bytes of the SHA-256
 *   20  u32   number of entries N
 *   24  u64   length of the file
 *   32  32    SHA-256 of the file
 *   64  4 N   page number of each entry (offset in the file / 4096), ascending
 *       4 N   CRC-32 of the page, to look it up by
 *      16 N   hash of the page
 *       32    SHA-256 of all that stands before: the index's digest
 *
 * An entry is the first page of its content in the file. Pages that are all zero, and a last piece of less than a page,
 * have none. An entry is known by its position, its ordinal: neighbours in the file mostly have neighbouring ones.
 */
import { createHash } from 'node:crypto';
import { HASH_BYTES, INDEX_MAX_ENTRIES, PAGE_BYTES } from './constants.ts';
import { fail } from './errors.ts';

const MAGIC = Buffer.from('CAPPAGES', 'latin1');
const VERSION = 1;
const HASH_SHA256_16 = 1;
const HEADER_BYTES = 64;
const DIGEST_BYTES = 32;
const ENTRY_BYTES = 8 + HASH_BYTES;
export const INDEX_MAX_BYTES = HEADER_BYTES + ENTRY_BYTES * INDEX_MAX_ENTRIES + DIGEST_BYTES;

export interface PageIndex {
  /** SHA-256 of the index, hex: its name. */
  readonly digest: string;
  /** SHA-256 of the file that it describes, hex. */
  readonly fileSha256: string;
  readonly fileBytes: number;
  readonly entries: number;
  /** By ordinal. */
  readonly pages: Uint32Array;
  readonly crcs: Uint32Array;
  /** HASH_BYTES an entry. */
  readonly hashes: Buffer;
}

export interface PageColumns {
  readonly entries: number;
  readonly pages: Uint32Array;
  readonly crcs: Uint32Array;
  readonly hashes: Buffer;
}

/** The file's bytes. The columns may be longer than `entries`. */
export function encodePageIndex(columns: PageColumns, fileSha256: Buffer, fileBytes: number): Buffer {
  const { entries } = columns;
  const out = Buffer.alloc(HEADER_BYTES + ENTRY_BYTES * entries + DIGEST_BYTES);
  MAGIC.copy(out, 0);
  out.writeUInt32LE(VERSION, 8);
  out.writeUInt32LE(PAGE_BYTES, 12);
  out.writeUInt32LE(HASH_SHA256_16, 16);
  out.writeUInt32LE(entries, 20);
  out.writeBigUInt64LE(BigInt(fileBytes), 24);
  fileSha256.copy(out, 32);
  let at = HEADER_BYTES;
  for (const column of [columns.pages, columns.crcs]) {
    out.set(Buffer.from(column.buffer, column.byteOffset, 4 * entries), at);
    at += 4 * entries;
  }
  columns.hashes.copy(out, at, 0, HASH_BYTES * entries);
  const end = at + HASH_BYTES * entries;
  digestOf(out.subarray(0, end)).copy(out, end);
  return out;
}

/**
 * Checks the bytes of an index and returns views of them.
 * @throws PAGES_INDEX_DAMAGED, PAGES_INDEX_VERSION
 */
export function decodePageIndex(bytes: Buffer): PageIndex {
  if (bytes.length < HEADER_BYTES + DIGEST_BYTES || !bytes.subarray(0, 8).equals(MAGIC))
    throw damaged('no page index');
  const version = bytes.readUInt32LE(8);
  if (
    version !== VERSION ||
    bytes.readUInt32LE(12) !== PAGE_BYTES ||
    bytes.readUInt32LE(16) !== HASH_SHA256_16
  )
    throw fail('PAGES_INDEX_VERSION', `version ${version}`, { fields: { version } });
  const entries = bytes.readUInt32LE(20);
  if (entries > INDEX_MAX_ENTRIES) throw damaged(`${entries} entries`);
  const end = HEADER_BYTES + ENTRY_BYTES * entries;
  if (bytes.length !== end + DIGEST_BYTES) throw damaged(`${bytes.length} bytes for ${entries} entries`);
  const digest = digestOf(bytes.subarray(0, end));
  if (!digest.equals(bytes.subarray(end))) throw damaged('its checksum is wrong');
  const fileBytes = Number(bytes.readBigUInt64LE(24));
  // Typed arrays need their alignment; a buffer of one's own has it.
  const own = bytes.byteOffset % 4 === 0 ? bytes : Buffer.from(new Uint8Array(bytes).buffer);
  const column = (index: number): Uint32Array =>
    new Uint32Array(own.buffer, own.byteOffset + HEADER_BYTES + 4 * index * entries, entries);
  const pages = column(0);
  let last = -1;
  for (const page of pages) {
    if (page <= last) throw damaged('its pages are out of order');
    last = page;
  }
  if ((last + 1) * PAGE_BYTES > fileBytes) throw damaged('it lists pages beyond the file');
  return {
    digest: digest.toString('hex'),
    fileSha256: bytes.toString('hex', 32, 64),
    fileBytes,
    entries,
    pages,
    crcs: column(1),
    hashes: own.subarray(HEADER_BYTES + 8 * entries, end),
  };
}

function digestOf(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes).digest();
}

function damaged(detail: string): Error {
  return fail('PAGES_INDEX_DAMAGED', detail);
}
