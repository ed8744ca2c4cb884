import {
  INFO,
  NBD_MAX_CHUNK_EXTENTS,
  NBD_MAX_INFO_REQUESTS,
  NBD_MAX_META_QUERIES,
  NBD_MAX_STRING_BYTES,
} from './constants.ts';
import { fail } from './errors.ts';
import type { BlockSizes, InfoRequest, MetaContextRequest, StatusDescriptor } from './frames.ts';

/** The data of INFO and GO. @throws NBD_BAD_FRAME, NBD_TOO_LARGE */
export function decodeInfoRequest(data: Buffer): InfoRequest {
  const reader = new Reader(data, 'data of INFO or GO');
  const name = reader.counted();
  const count = reader.u16();
  if (count > NBD_MAX_INFO_REQUESTS) throw fail('NBD_TOO_LARGE', `${count} information requests`);
  const requests = Array.from({ length: count }, () => reader.u16());
  reader.end();
  return { name, requests };
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. @throws NBD_BAD_FRAME, NBD_TOO_LARGE */
export function decodeMetaContextRequest(data: Buffer): MetaContextRequest {
  const reader = new Reader(data, 'data of a meta context option');
  const name = reader.counted();
  const count = reader.u32();
  if (count > NBD_MAX_META_QUERIES) throw fail('NBD_TOO_LARGE', `${count} meta context queries`);
  const queries = Array.from({ length: count }, () => reader.counted());
  reader.end();
  return { name, queries };
}

/** The data of a SERVER reply to LIST. @throws NBD_BAD_FRAME, NBD_TOO_LARGE */
export function decodeServerEntry(data: Buffer): { name: string; description: string } {
  const reader = new Reader(data, 'entry of LIST');
  return { name: reader.counted(), description: reader.rest() };
}

/** The data of a META_CONTEXT reply. @throws NBD_BAD_FRAME, NBD_TOO_LARGE */
export function decodeMetaContext(data: Buffer): { id: number; name: string } {
  const reader = new Reader(data, 'meta context');
  return { id: reader.u32(), name: reader.rest() };
}

export type DecodedInfo =
  | { readonly type: 'export'; readonly sizeBytes: number; readonly flags: number }
  | { readonly type: 'name' | 'description'; readonly text: string }
  | ({ readonly type: 'blockSize' } & BlockSizes)
  | { readonly type: 'unknown' };

/** The data of an INFO reply. @throws NBD_BAD_FRAME, NBD_TOO_LARGE */
export function decodeInfo(data: Buffer): DecodedInfo {
  const reader = new Reader(data, 'information about the export');
  const type = reader.u16();
  if (type === INFO.EXPORT) {
    const info = { type: 'export' as const, sizeBytes: exportSize(reader.u64()), flags: reader.u16() };
    reader.end();
    return info;
  }
  if (type === INFO.NAME) return { type: 'name', text: reader.rest() };
  if (type === INFO.DESCRIPTION) return { type: 'description', text: reader.rest() };
  if (type !== INFO.BLOCK_SIZE) return { type: 'unknown' };
  const [minimumBytes, preferredBytes, maximumBytes] = [reader.u32(), reader.u32(), reader.u32()];
  reader.end();
  // proto.md, "Size constraints": powers of two, in this order of size
  if (!isPowerOfTwo(minimumBytes) || minimumBytes > 65_536 || !isPowerOfTwo(preferredBytes)) {
    throw fail('NBD_BAD_FRAME', `block sizes ${minimumBytes} and ${preferredBytes} are not powers of two`);
  }
  if (preferredBytes < minimumBytes || maximumBytes < minimumBytes) {
    throw fail('NBD_BAD_FRAME', `block sizes ${minimumBytes}, ${preferredBytes}, ${maximumBytes}`);
  }
  return { type: 'blockSize', minimumBytes, preferredBytes, maximumBytes };
}

/** An export's size as a safe integer. @throws NBD_BAD_FRAME above 2^53 */
export function exportSize(sizeBytes: bigint): number {
  if (sizeBytes > BigInt(Number.MAX_SAFE_INTEGER))
    throw fail('NBD_BAD_FRAME', `export of ${sizeBytes} bytes`);
  return Number(sizeBytes);
}

/** The payload of an OFFSET_DATA chunk. @throws NBD_BAD_FRAME */
export function decodeDataChunk(payload: Buffer): { offset: number; data: Buffer } {
  if (payload.length < 9) throw fail('NBD_BAD_FRAME', `data chunk of ${payload.length} bytes`);
  return { offset: readOffset(payload, 0), data: payload.subarray(8) };
}

/** The payload of an OFFSET_HOLE chunk. @throws NBD_BAD_FRAME */
export function decodeHoleChunk(payload: Buffer): { offset: number; lengthBytes: number } {
  const reader = new Reader(payload, 'hole chunk');
  const hole = { offset: readOffset(reader.bytes(8), 0), lengthBytes: reader.u32() };
  reader.end();
  if (hole.lengthBytes === 0) throw fail('NBD_BAD_FRAME', 'hole of no bytes');
  return hole;
}

/** The payload of a BLOCK_STATUS chunk. @throws NBD_BAD_FRAME */
export function decodeStatusChunk(payload: Buffer): { contextId: number; descriptors: StatusDescriptor[] } {
  if (payload.length < 12 || payload.length % 8 !== 4) {
    throw fail('NBD_BAD_FRAME', `block status chunk of ${payload.length} bytes`);
  }
  if ((payload.length - 4) / 8 > NBD_MAX_CHUNK_EXTENTS) throw fail('NBD_TOO_LARGE', 'extents of one chunk');
  const descriptors: StatusDescriptor[] = [];
  for (let at = 4; at < payload.length; at += 8) {
    const lengthBytes = payload.readUInt32BE(at);
    if (lengthBytes === 0) throw fail('NBD_BAD_FRAME', 'extent of no bytes');
    descriptors.push({ lengthBytes, flags: payload.readUInt32BE(at + 4) });
  }
  return { contextId: payload.readUInt32BE(0), descriptors };
}

/**
 * The payload of any error chunk; `offset` only with `withOffset`. Types that we do not know carry more behind the
 * message, which is skipped.
 * @throws NBD_BAD_FRAME
 */
export function decodeErrorChunk(
  payload: Buffer,
  withOffset: boolean,
): { error: number; message: string; offset: number | undefined } {
  const reader = new Reader(payload, 'error chunk');
  const error = reader.u32();
  if (error === 0) throw fail('NBD_BAD_FRAME', 'error chunk without an error');
  const length = reader.u16();
  if (length > NBD_MAX_STRING_BYTES) throw fail('NBD_TOO_LARGE', `error message of ${length} bytes`);
  const message = reader.bytes(length).toString();
  return { error, message, offset: withOffset ? readOffset(reader.bytes(8), 0) : undefined };
}

/** A 64-bit offset; rounded above 2^53, where no export reaches. */
export function readOffset(b: Buffer, at: number): number {
  return b.readUInt32BE(at) * 2 ** 32 + b.readUInt32BE(at + 4);
}

function isPowerOfTwo(n: number): boolean {
  return n > 0 && Number.isInteger(Math.log2(n));
}

/** Reads fields in turn and refuses to read past the end. */
class Reader {
  readonly #data: Buffer;
  readonly #what: string;
  #at = 0;

  constructor(data: Buffer, what: string) {
    this.#data = data;
    this.#what = what;
  }

  u16(): number {
    return this.bytes(2).readUInt16BE(0);
  }

  u32(): number {
    return this.bytes(4).readUInt32BE(0);
  }

  u64(): bigint {
    return this.bytes(8).readBigUInt64BE(0);
  }

  bytes(count: number): Buffer {
    if (count > this.#data.length - this.#at) throw fail('NBD_BAD_FRAME', `${this.#what} is too short`);
    this.#at += count;
    return this.#data.subarray(this.#at - count, this.#at);
  }

  /** A string behind its 32-bit length. */
  counted(): string {
    const length = this.u32();
    if (length > NBD_MAX_STRING_BYTES) throw fail('NBD_TOO_LARGE', `string of ${length} bytes`);
    return this.bytes(length).toString();
  }

  rest(): string {
    const length = this.#data.length - this.#at;
    if (length > NBD_MAX_STRING_BYTES) throw fail('NBD_TOO_LARGE', `string of ${length} bytes`);
    return this.bytes(length).toString();
  }

  end(): void {
    const left = this.#data.length - this.#at;
    if (left !== 0) throw fail('NBD_BAD_FRAME', `${left} bytes behind the ${this.#what}`);
  }
}
