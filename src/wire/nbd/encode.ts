import {
  CHUNK,
  CHUNK_HEADER_BYTES,
  EXPORT_NAME_PADDING_BYTES,
  EXPORT_NAME_REPLY_BYTES,
  GREETING_BYTES,
  INFO,
  NBD_MAGIC,
  NBD_MAX_STRING_BYTES,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC,
  REQUEST_HEADER_BYTES,
  REQUEST_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.ts';
import type { BlockSizes, InfoRequest, MetaContextRequest, StatusDescriptor } from './frames.ts';

const EMPTY = Buffer.alloc(0);

export function encodeGreeting(flags: number): Buffer {
  const b = Buffer.alloc(GREETING_BYTES);
  b.writeBigUInt64BE(NBD_MAGIC, 0);
  b.writeBigUInt64BE(OPTION_MAGIC, 8);
  b.writeUInt16BE(flags, 16);
  return b;
}

export function encodeClientFlags(flags: number): Buffer {
  return u32(flags);
}

export function encodeOption(option: number, data: Buffer = EMPTY): Buffer {
  const b = Buffer.alloc(OPTION_HEADER_BYTES + data.length);
  b.writeBigUInt64BE(OPTION_MAGIC, 0);
  b.writeUInt32BE(option, 8);
  b.writeUInt32BE(data.length, 12);
  data.copy(b, OPTION_HEADER_BYTES);
  return b;
}

export function encodeOptionReply(option: number, type: number, data: Buffer = EMPTY): Buffer {
  const b = Buffer.alloc(OPTION_REPLY_HEADER_BYTES + data.length);
  b.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  b.writeUInt32BE(option, 8);
  b.writeUInt32BE(type, 12);
  b.writeUInt32BE(data.length, 16);
  data.copy(b, OPTION_REPLY_HEADER_BYTES);
  return b;
}

export function encodeExportNameReply(sizeBytes: number, flags: number, noZeroes: boolean): Buffer {
  const b = Buffer.alloc(EXPORT_NAME_REPLY_BYTES + (noZeroes ? 0 : EXPORT_NAME_PADDING_BYTES));
  b.writeBigUInt64BE(BigInt(sizeBytes), 0);
  b.writeUInt16BE(flags, 8);
  return b;
}

/** The data of INFO and GO. */
export function encodeInfoRequest(request: InfoRequest): Buffer {
  const requests = Buffer.alloc(2 + 2 * request.requests.length);
  requests.writeUInt16BE(request.requests.length, 0);
  for (const [i, type] of request.requests.entries()) requests.writeUInt16BE(type, 2 + 2 * i);
  return Buffer.concat([counted(request.name), requests]);
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function encodeMetaContextRequest(request: MetaContextRequest): Buffer {
  return Buffer.concat([counted(request.name), u32(request.queries.length), ...request.queries.map(counted)]);
}

/** The data of a SERVER reply to LIST. */
export function encodeServerEntry(name: string, description = ''): Buffer {
  return Buffer.concat([counted(name), Buffer.from(description)]);
}

/** The data of a META_CONTEXT reply. */
export function encodeMetaContext(id: number, name: string): Buffer {
  return Buffer.concat([u32(id), Buffer.from(name)]);
}

export function encodeExportInfo(sizeBytes: number, flags: number): Buffer {
  const b = Buffer.alloc(12);
  b.writeUInt16BE(INFO.EXPORT, 0);
  b.writeBigUInt64BE(BigInt(sizeBytes), 2);
  b.writeUInt16BE(flags, 10);
  return b;
}

export function encodeBlockSizeInfo(sizes: BlockSizes): Buffer {
  const b = Buffer.alloc(14);
  b.writeUInt16BE(INFO.BLOCK_SIZE, 0);
  b.writeUInt32BE(sizes.minimumBytes, 2);
  b.writeUInt32BE(sizes.preferredBytes, 6);
  b.writeUInt32BE(sizes.maximumBytes, 10);
  return b;
}

/** NAME or DESCRIPTION. */
export function encodeTextInfo(type: number, text: string): Buffer {
  const b = Buffer.from(`\0\0${text}`);
  b.writeUInt16BE(type, 0);
  return b;
}

/** The 28 bytes of a request; the data of a WRITE follows them on the wire. */
export function encodeRequest(
  command: number,
  flags: number,
  cookie: bigint,
  offset: number,
  lengthBytes: number,
): Buffer {
  const b = Buffer.allocUnsafe(REQUEST_HEADER_BYTES);
  b.writeUInt32BE(REQUEST_MAGIC, 0);
  b.writeUInt16BE(flags, 4);
  b.writeUInt16BE(command, 6);
  b.writeBigUInt64BE(cookie, 8);
  writeOffset(b, offset, 16);
  b.writeUInt32BE(lengthBytes, 24);
  return b;
}

/** The 16 bytes of a simple reply; the data of a READ follows them on the wire. */
export function encodeSimpleReply(cookie: bigint, error: number): Buffer {
  const b = Buffer.allocUnsafe(SIMPLE_REPLY_BYTES);
  b.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  b.writeUInt32BE(error, 4);
  b.writeBigUInt64BE(cookie, 8);
  return b;
}

/** The 20 bytes before a chunk's payload. */
export function encodeChunkHeader(flags: number, type: number, cookie: bigint, lengthBytes: number): Buffer {
  const b = Buffer.allocUnsafe(CHUNK_HEADER_BYTES);
  writeChunkHeader(b, flags, type, cookie, lengthBytes);
  return b;
}

/** Everything of an OFFSET_DATA chunk that comes before its `lengthBytes` of data. */
export function encodeDataChunkHeader(flags: number, cookie: bigint, offset: number, lengthBytes: number) {
  const b = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + 8);
  writeChunkHeader(b, flags, CHUNK.OFFSET_DATA, cookie, 8 + lengthBytes);
  writeOffset(b, offset, CHUNK_HEADER_BYTES);
  return b;
}

export function encodeHoleChunk(flags: number, cookie: bigint, offset: number, lengthBytes: number): Buffer {
  const b = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + 12);
  writeChunkHeader(b, flags, CHUNK.OFFSET_HOLE, cookie, 12);
  writeOffset(b, offset, CHUNK_HEADER_BYTES);
  b.writeUInt32BE(lengthBytes, CHUNK_HEADER_BYTES + 8);
  return b;
}

export function encodeStatusChunk(
  flags: number,
  cookie: bigint,
  contextId: number,
  descriptors: readonly StatusDescriptor[],
): Buffer {
  const payloadBytes = 4 + 8 * descriptors.length;
  const b = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + payloadBytes);
  writeChunkHeader(b, flags, CHUNK.BLOCK_STATUS, cookie, payloadBytes);
  let at = b.writeUInt32BE(contextId, CHUNK_HEADER_BYTES);
  for (const d of descriptors) {
    at = b.writeUInt32BE(d.lengthBytes, at);
    at = b.writeUInt32BE(d.flags, at);
  }
  return b;
}

/** An ERROR chunk, or with `offset` an ERROR_OFFSET chunk. */
export function encodeErrorChunk(
  flags: number,
  cookie: bigint,
  error: number,
  message: string,
  offset?: number,
): Buffer {
  const text = Buffer.from(message).subarray(0, NBD_MAX_STRING_BYTES);
  const payloadBytes = 6 + text.length + (offset === undefined ? 0 : 8);
  const b = Buffer.allocUnsafe(CHUNK_HEADER_BYTES + payloadBytes);
  writeChunkHeader(b, flags, offset === undefined ? CHUNK.ERROR : CHUNK.ERROR_OFFSET, cookie, payloadBytes);
  b.writeUInt32BE(error, 20);
  b.writeUInt16BE(text.length, 24);
  text.copy(b, 26);
  if (offset !== undefined) writeOffset(b, offset, 26 + text.length);
  return b;
}

function writeChunkHeader(b: Buffer, flags: number, type: number, cookie: bigint, lengthBytes: number): void {
  b.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  b.writeUInt16BE(flags, 4);
  b.writeUInt16BE(type, 6);
  b.writeBigUInt64BE(cookie, 8);
  b.writeUInt32BE(lengthBytes, 16);
}

/** A 64-bit offset from a safe integer, without the cost of a BigInt. */
function writeOffset(b: Buffer, offset: number, at: number): void {
  const high = Math.floor(offset / 2 ** 32);
  b.writeUInt32BE(high, at);
  b.writeUInt32BE(offset - high * 2 ** 32, at + 4);
}

function u32(value: number): Buffer {
  const b = Buffer.alloc(4);
  b.writeUInt32BE(value, 0);
  return b;
}

function counted(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([u32(bytes.length), bytes]);
}
