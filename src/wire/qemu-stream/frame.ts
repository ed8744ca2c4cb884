/**
 * Frames in which stream bytes cross the link. They are decoded in the order in which they were made; a frame without
 * repeats (tokens.ts) needs no other one for it. Little endian, no magic (the link frames them).
 *
 *   0  u8   version, 2
 *   1  u8   kind: 1 memory, 2 device
 *   2  u8   codec of the bodies (memory) or of the whole content (device): 1 raw, 2 RLE, 3 zstd
 *   3  u8   0
 *   4  u32  length of the stream bytes that the frame decodes to
 *   8  u32  CRC-32 of these stream bytes
 *  12       device: the content, packed with the codec
 *
 *  12  u32  memory: length of the tokens T
 *  16  u32  memory: length of the bodies before zstd B (as they are for raw and RLE)
 *  20  u32  memory: pages in it that are references
 *  24  T    tokens, see tokens.ts
 *  24+T     bodies in order of use: 4096 bytes a page; with RLE u16 length, then that many bytes (4096: as it is)
 */
import { type CodecId, codecFromId } from '../codec.ts';
import { DEVICE_FRAME_RAW_LIMIT_BYTES, MEMORY_FRAME_RAW_LIMIT_BYTES } from './constants.ts';
import { fail } from './errors.ts';

export const FRAME_VERSION = 2;
export const FRAME_MEMORY = 1;
export const FRAME_DEVICE = 2;
export const FRAME_HEADER_BYTES = 12;
export const MEMORY_HEADER_BYTES = 24;

export interface FrameHeader {
  readonly kind: 'memory' | 'device';
  readonly codec: CodecId;
  /** Length of the stream bytes that the frame decodes to. */
  readonly rawBytes: number;
  readonly crc32: number;
}

/** Writes the first FRAME_HEADER_BYTES of `out`. */
export function writeFrameHeader(out: Buffer, header: FrameHeader): void {
  out.writeUInt8(FRAME_VERSION, 0);
  out.writeUInt8(header.kind === 'memory' ? FRAME_MEMORY : FRAME_DEVICE, 1);
  out.writeUInt8(header.codec, 2);
  out.writeUInt8(0, 3);
  out.writeUInt32LE(header.rawBytes, 4);
  out.writeUInt32LE(header.crc32, 8);
}

/**
 * Reads and checks a frame's header.
 * @throws STREAM_FRAME_VERSION, STREAM_FRAME_CORRUPT, STREAM_FRAME_TOO_LARGE, CODEC_UNKNOWN
 */
export function readFrameHeader(frame: Buffer): FrameHeader {
  if (frame.length < FRAME_HEADER_BYTES) throw fail('STREAM_FRAME_CORRUPT', 'shorter than its header');
  const version = frame.readUInt8(0);
  if (version !== FRAME_VERSION) {
    throw fail('STREAM_FRAME_VERSION', `version ${version}, not ${FRAME_VERSION}`, { fields: { version } });
  }
  const kind = frame.readUInt8(1);
  if (kind !== FRAME_MEMORY && kind !== FRAME_DEVICE) throw fail('STREAM_FRAME_CORRUPT', `kind ${kind}`);
  if (frame.readUInt8(3) !== 0) throw fail('STREAM_FRAME_CORRUPT', 'reserved byte set');
  const codec = codecFromId(frame.readUInt8(2));
  const rawBytes = frame.readUInt32LE(4);
  const limitBytes = kind === FRAME_MEMORY ? MEMORY_FRAME_RAW_LIMIT_BYTES : DEVICE_FRAME_RAW_LIMIT_BYTES;
  if (rawBytes > limitBytes) {
    throw fail('STREAM_FRAME_TOO_LARGE', `${rawBytes} bytes, allowed ${limitBytes}`, {
      fields: { rawBytes, limitBytes },
    });
  }
  return { kind: kind === FRAME_MEMORY ? 'memory' : 'device', codec, rawBytes, crc32: frame.readUInt32LE(8) };
}
