/** Block codecs that frames name by number: what disk data and device state are packed with. 0 is never valid. */
import { promisify } from 'node:util';
import { constants, zstdCompress, zstdCompressSync, zstdDecompressSync, type ZstdOptions } from 'node:zlib';
import { errorCatalogue } from '../base/errors.ts';
import { rleAccepts, rleDecode, rleEncode } from './rle.ts';

export const CODEC_RAW = 1;
export const CODEC_RLE = 2;
export const CODEC_ZSTD = 3;

export type CodecId = typeof CODEC_RAW | typeof CODEC_RLE | typeof CODEC_ZSTD;
export type CodecName = 'raw' | 'rle' | 'zstd';

export const codecIds: Readonly<Record<CodecName, CodecId>> = {
  raw: CODEC_RAW,
  rle: CODEC_RLE,
  zstd: CODEC_ZSTD,
};

/** Longest block that is encoded or decoded in one go. */
export const BLOCK_MAX_BYTES = 8 * 1024 * 1024;
/** Level at which zstd keeps up with a fast link on one core. */
export const ZSTD_DEFAULT_LEVEL = 1;
export const ZSTD_MAX_LEVEL = 19;
/** Largest zstd window a peer may ask us to allocate: 8 MiB, which level 19 needs. */
const ZSTD_WINDOW_LOG_MAX = 23;
/** zlib refuses smaller output chunks. */
const ZLIB_MIN_CHUNK_BYTES = 64;

export const fail = errorCatalogue({
  CODEC_UNKNOWN: {
    summary: 'a block names a codec that does not exist',
    remedy: 'Both sites must run compatible versions of CloudAP.',
  },
  CODEC_CORRUPT: {
    summary: 'a packed block does not unpack to what was announced',
    remedy:
      'The data was damaged or the peer is faulty: nothing of it was used. Try again, and update both sites.',
  },
  CODEC_TOO_LARGE: {
    summary: 'a block is larger than allowed',
    remedy: 'See docs/LIMITS.md. The peer is faulty or incompatible.',
  },
});

export interface EncodedBlock {
  readonly codec: CodecId;
  /** With `raw` this is the caller's own buffer, not a copy. */
  readonly payload: Buffer;
}

/** The codec of this number. @throws CODEC_UNKNOWN */
export function codecFromId(id: number): CodecId {
  if (id === CODEC_RAW || id === CODEC_RLE || id === CODEC_ZSTD) return id;
  throw fail('CODEC_UNKNOWN', `number ${id}`, { fields: { codec: id } });
}

const zstdCompressLater = promisify<Buffer, ZstdOptions, Buffer>(zstdCompress);

/** zstd in one go. The frame carries no checksum of its own: frames of the link and of the stream have theirs. */
export function zstdPack(data: Buffer, level: number = ZSTD_DEFAULT_LEVEL): Buffer {
  return zstdCompressSync(data, packOptions(data.length, level));
}

/** As `zstdPack`, in a thread of Node's pool; `data` must not change meanwhile. */
export function zstdPackLater(data: Buffer, level: number = ZSTD_DEFAULT_LEVEL): Promise<Buffer> {
  return zstdCompressLater(data, packOptions(data.length, level));
}

function packOptions(lengthBytes: number, level: number): ZstdOptions {
  return {
    // One output chunk for everything: the default of 16 KiB would make zlib call back once a chunk.
    chunkSize: Math.max(ZLIB_MIN_CHUNK_BYTES, lengthBytes + (lengthBytes >>> 8) + 512),
    pledgedSrcSize: lengthBytes,
    params: { [constants.ZSTD_c_compressionLevel]: Math.min(level, ZSTD_MAX_LEVEL) },
  };
}

/** What zlib's synchronous functions return with `info`; its types do not say so. */
interface WithInfo {
  readonly buffer: Buffer;
  readonly engine: { readonly bytesWritten: number };
}

/** Unpacks exactly `expectedLengthBytes`; never buffers more. @throws CODEC_CORRUPT */
export function zstdUnpack(payload: Buffer, expectedLengthBytes: number): Buffer {
  let result: WithInfo;
  try {
    result = zstdDecompressSync(payload, {
      info: true,
      chunkSize: Math.max(ZLIB_MIN_CHUNK_BYTES, expectedLengthBytes + 1),
      maxOutputLength: Math.max(1, expectedLengthBytes),
      params: { [constants.ZSTD_d_windowLogMax]: ZSTD_WINDOW_LOG_MAX },
    }) as unknown as WithInfo;
  } catch (error) {
    throw fail('CODEC_CORRUPT', 'zstd', { cause: error, fields: { expectedLengthBytes } });
  }
  const { buffer, engine } = result;
  if (buffer.length !== expectedLengthBytes) {
    throw fail('CODEC_CORRUPT', `zstd gave ${buffer.length} of ${expectedLengthBytes} bytes`);
  }
  if (engine.bytesWritten !== payload.length) throw fail('CODEC_CORRUPT', 'something after the zstd frame');
  return buffer;
}

/**
 * Packs a block with the codec asked for, or `raw` where that does not make it smaller (or RLE does not take its length).
 * @throws CODEC_TOO_LARGE
 */
export function encodeBlock(
  codec: CodecId,
  data: Buffer,
  options: { zstdLevel?: number } = {},
): EncodedBlock {
  if (data.length > BLOCK_MAX_BYTES) throw tooLarge(data.length);
  if (codec === CODEC_RLE && rleAccepts(data.length)) {
    const out = Buffer.allocUnsafe(data.length);
    const written = rleEncode(data, out, 0);
    // A copy, so that a few bytes do not keep the whole scratch alive while they wait to be sent.
    if (written > 0) return { codec, payload: Buffer.from(out.subarray(0, written)) };
  } else if (codec === CODEC_ZSTD && data.length > 0) {
    const payload = zstdPack(data, options.zstdLevel);
    if (payload.length < data.length) return { codec, payload };
  }
  return { codec: CODEC_RAW, payload: data };
}

/**
 * Unpacks a block from a peer. `raw` returns the payload itself.
 * @throws CODEC_UNKNOWN, CODEC_CORRUPT, CODEC_TOO_LARGE
 */
export function decodeBlock(codec: number, payload: Buffer, expectedLengthBytes: number): Buffer {
  if (!(expectedLengthBytes >= 0 && expectedLengthBytes <= BLOCK_MAX_BYTES))
    throw tooLarge(expectedLengthBytes);
  const id = codecFromId(codec);
  if (id === CODEC_RAW) {
    if (payload.length === expectedLengthBytes) return payload;
    throw fail('CODEC_CORRUPT', `raw block of ${payload.length}, not ${expectedLengthBytes} bytes`);
  }
  if (id === CODEC_ZSTD) return zstdUnpack(payload, expectedLengthBytes);
  if (!rleAccepts(expectedLengthBytes))
    throw fail('CODEC_CORRUPT', `RLE block of ${expectedLengthBytes} bytes`);
  const out = Buffer.allocUnsafe(expectedLengthBytes);
  if (!rleDecode(payload, out, 0, expectedLengthBytes)) throw fail('CODEC_CORRUPT', 'RLE');
  return out;
}

function tooLarge(lengthBytes: number): Error {
  return fail('CODEC_TOO_LARGE', `${lengthBytes} bytes, allowed ${BLOCK_MAX_BYTES}`, {
    fields: { lengthBytes, limitBytes: BLOCK_MAX_BYTES },
  });
}
