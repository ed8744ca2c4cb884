/**
 * Messages of a push: a folder of files from one site to another. The target says what it wants, so that it goes on
 * where an earlier attempt ended.
 *
 *   source                                   target
 *                    <-- urgent --  CONTROL want {file, offsetBytes}      for one file after the other
 *     DATA...        -- bulk   -->            in order, from that offset on
 *     END            -- bulk   -->            the file is through
 *                                             the target compares its SHA-256; a mismatch after a resumption: want from 0
 *                    <-- urgent --  CONTROL verifying, done               the artefact is in the target's store
 *     CONTROL failed <-- either -->           {error}
 *                    <-- urgent --  CONTROL pause {paused}     while a migration needs the link
 *
 * CONTROL is JSON (content/staging/messages.ts). The others, big endian:
 *
 *   DATA  u8 version, u8 file, u8 codec (0 zeros, 1 raw, 3 zstd), u8 0, u64 offset, u64 length, payload (none for zeros)
 *   END   u8 version, u8 file, u16 0
 *
 * A file is its number in the artefact's list. There is no checksum: TLS has one, and the whole file is hashed.
 */
import { CODEC_RAW, CODEC_ZSTD, decodeBlock, encodeBlock } from '../codec.ts';
import { MAX_STAGE_BYTES, STAGE_VERSION, STAGE_ZEROS } from './constants.ts';
import { fail } from './errors.ts';

const DATA_HEADER_BYTES = 20;
const END_BYTES = 4;

export interface StageData {
  readonly file: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Undefined for zeros. */
  readonly data: Buffer | undefined;
}

function header(lengthBytes: number, file: number): Buffer {
  const out = Buffer.alloc(lengthBytes);
  out.writeUInt8(STAGE_VERSION, 0);
  out.writeUInt8(file, 1);
  return out;
}

function dataHeader(file: number, codec: number, offsetBytes: number, lengthBytes: number): Buffer {
  const out = header(DATA_HEADER_BYTES, file);
  out.writeUInt8(codec, 2);
  out.writeBigUInt64BE(BigInt(offsetBytes), 4);
  out.writeBigUInt64BE(BigInt(lengthBytes), 12);
  return out;
}

/** Up to MAX_STAGE_BYTES of a file, compressed where that makes them fewer. */
export function encodeStageData(file: number, offsetBytes: number, data: Buffer): Buffer {
  const { codec, payload } = encodeBlock(CODEC_ZSTD, data);
  return Buffer.concat([dataHeader(file, codec, offsetBytes, data.length), payload]);
}

export function encodeStageZeros(file: number, offsetBytes: number, lengthBytes: number): Buffer {
  return dataHeader(file, STAGE_ZEROS, offsetBytes, lengthBytes);
}

export function encodeStageEnd(file: number): Buffer {
  return header(END_BYTES, file);
}

/** @throws STAGE_FRAME_INVALID */
export function decodeStageEnd(message: Buffer): number {
  if (message.length !== END_BYTES || message.readUInt8(0) !== STAGE_VERSION || message.readUInt16BE(2) !== 0)
    throw fail('STAGE_FRAME_INVALID', 'END');
  return message.readUInt8(1);
}

/** Checks a message against the length of its file before anything is unpacked. @throws STAGE_FRAME_INVALID, CODEC_CORRUPT */
export function decodeStageData(message: Buffer, fileBytes: number): StageData {
  if (message.length < DATA_HEADER_BYTES || message.readUInt8(0) !== STAGE_VERSION)
    throw fail('STAGE_FRAME_INVALID', `DATA of ${message.length} bytes`);
  const codec = message.readUInt8(2);
  const offset = message.readBigUInt64BE(4);
  const length = message.readBigUInt64BE(12);
  if (message.readUInt8(3) !== 0 || length === 0n || offset + length > BigInt(fileBytes))
    throw fail('STAGE_FRAME_INVALID', `${length} bytes at ${offset} of ${fileBytes}`);
  const place = {
    file: message.readUInt8(1),
    offsetBytes: Number(offset),
    lengthBytes: Number(length),
  };
  const payload = message.subarray(DATA_HEADER_BYTES);
  if (codec === STAGE_ZEROS) {
    if (payload.length > 0) throw fail('STAGE_FRAME_INVALID', 'zeros with a payload');
    return { ...place, data: undefined };
  }
  if ((codec !== CODEC_RAW && codec !== CODEC_ZSTD) || place.lengthBytes > MAX_STAGE_BYTES)
    throw fail('STAGE_FRAME_INVALID', `${place.lengthBytes} bytes with codec ${codec}`);
  return { ...place, data: decodeBlock(codec, payload, place.lengthBytes) };
}
