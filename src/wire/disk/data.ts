/** Data messages: AHEAD, METADATA, PUSH and ANSWER. Their layout stands in frames.ts, that of named sectors in content.ts. */
import { crc32 } from 'node:zlib';
import type { Run } from '../bitmap.ts';
import { CODEC_RAW, type CodecId, decodeBlock, encodeBlock } from '../codec.ts';
import type { ContentLookup } from '../qemu-stream/content.ts';
import {
  CODEC_CONTENT,
  CODEC_ZERO,
  MAX_CONTENT_SECTORS,
  MAX_EXTENT_BYTES,
  MAX_METADATA_EXTENT_BYTES,
  MAX_ZERO_SECTORS,
  SECTOR_BYTES,
} from './constants.ts';
import {
  type ContentPlan,
  type ContentReferences,
  maxContentBytes,
  packContent,
  planContent,
  referencesOfContent,
  travellingOfContent,
  unpackContent,
} from './content.ts';
import { fail } from './errors.ts';
import { diskOf, readRun, runBytes, sectorsOf, start } from './message.ts';

const DATA_HEADER_BYTES = 20;
const ZEROS = Buffer.alloc(MAX_METADATA_EXTENT_BYTES);

export interface DataFrame {
  codec: CodecId | typeof CODEC_ZERO | typeof CODEC_CONTENT;
  /** Number of the pull that this answers, 0 if none. */
  pull: number;
  run: Run;
  crc: number;
  payload: Buffer;
}

export function isZero(data: Buffer): boolean {
  for (let at = 0; at < data.length; at += ZEROS.length) {
    const part = data.subarray(at, at + ZEROS.length);
    if (part.compare(ZEROS, 0, part.length) !== 0) return false;
  }
  return true;
}

/** Packs one extent; `data` must not be changed afterwards (with codec raw it is copied into the message). */
export function encodeData(disk: number, pull: number, run: Run, data: Buffer, codec: CodecId): Buffer {
  const block = isZero(data) ? undefined : encodeBlock(codec, data);
  return dataMessage(disk, pull, run, block?.codec ?? CODEC_ZERO, data, block?.payload);
}

export interface ContentMessage {
  readonly message: Buffer;
  /** The sectors that it takes in: the first ones of the run. */
  readonly count: number;
  /** Of them those that travel as references. */
  readonly referenced: number;
}

/**
 * Packs as much of an extent as goes into one message, naming what the target holds. Where there is nothing to name it is
 * what `encodeData` makes. `codec` is for the rest.
 */
export function encodeContent(
  disk: number,
  pull: number,
  run: Run,
  data: Buffer,
  codec: CodecId,
  lookup: ContentLookup,
): ContentMessage {
  const plan = planContent(data, lookup);
  const taken = { first: run.first, count: plan.sectors };
  const part = data.subarray(0, plan.bytes);
  const message = isPlain(plan)
    ? encodeData(disk, pull, taken, part, codec)
    : dataMessage(disk, pull, taken, CODEC_CONTENT, part, packContent(part, plan, codec));
  return { message, count: plan.sectors, referenced: plan.referenced };
}

/** Whether a frame without names can carry it, and as well. */
function isPlain({ data, referenced, repeated, bytes }: ContentPlan): boolean {
  return data === 0 ? referenced === 0 : referenced + repeated === 0 && bytes <= MAX_EXTENT_BYTES;
}

function dataMessage(
  disk: number,
  pull: number,
  run: Run,
  codec: number,
  data: Buffer,
  payload: Buffer | undefined,
): Buffer {
  const out = start(DATA_HEADER_BYTES, disk);
  out.writeUInt8(codec, 2);
  out.writeUInt32BE(pull, 4);
  out.writeUInt32BE(run.first, 8);
  out.writeUInt32BE(run.count, 12);
  const seed = crc32(out.subarray(4, 16));
  out.writeUInt32BE(payload ? crc32(data, seed) : seed, 16);
  return payload ? Buffer.concat([out, payload]) : out;
}

/** The checksum in a data message. */
export function crcOf(message: Buffer): number {
  return message.readUInt32BE(16);
}

/**
 * Checks the header of a data message against a file of `fileSizeBytes`; the payload stays packed.
 * @param maxBytes most data that a frame of this type may carry
 * @throws DISK_FRAME_INVALID, DISK_VERSION, DISK_OUT_OF_RANGE
 */
export function decodeData(
  message: Buffer,
  fileSizeBytes: number,
  maxBytes: number = MAX_EXTENT_BYTES,
): DataFrame {
  if (message.length < DATA_HEADER_BYTES) throw fail('DISK_FRAME_INVALID', `${message.length} bytes`);
  diskOf(message);
  const codec = message.readUInt8(2);
  if (codec > CODEC_CONTENT || message.readUInt8(3) !== 0) throw fail('DISK_FRAME_INVALID', `codec ${codec}`);
  const maxSectors =
    codec === CODEC_ZERO
      ? MAX_ZERO_SECTORS
      : codec === CODEC_CONTENT
        ? MAX_CONTENT_SECTORS
        : maxBytes / SECTOR_BYTES;
  const run = readRun(message, 8, sectorsOf(fileSizeBytes), maxSectors);
  const payload = message.subarray(DATA_HEADER_BYTES);
  const lengthBytes = runBytes(run, fileSizeBytes);
  if (!fits(codec, payload.length, lengthBytes))
    throw fail('DISK_FRAME_INVALID', `${payload.length} bytes of payload for ${lengthBytes}`);
  return {
    codec: codec as DataFrame['codec'],
    pull: message.readUInt32BE(4),
    run,
    crc: message.readUInt32BE(16),
    payload,
  };
}

/** Whether a payload of this length can belong to a run of `lengthBytes`. */
function fits(codec: number, payloadBytes: number, lengthBytes: number): boolean {
  switch (codec) {
    case CODEC_ZERO:
      return payloadBytes === 0;
    case CODEC_RAW:
      return payloadBytes === lengthBytes;
    case CODEC_CONTENT:
      return payloadBytes <= maxContentBytes(lengthBytes);
    default:
      return payloadBytes > 0 && payloadBytes < lengthBytes;
  }
}

/** The pages that a frame refers to; undefined if there are none. @throws DISK_FRAME_CORRUPT */
export function referencesOf(frame: DataFrame, fileSizeBytes: number): ContentReferences | undefined {
  if (frame.codec !== CODEC_CONTENT) return undefined;
  const references = referencesOfContent(frame.payload, runBytes(frame.run, fileSizeBytes));
  return references.sectors.length > 0 ? references : undefined;
}

/**
 * The sectors of a frame, counted from its first, that travel in it: as bytes, or as references from this number on.
 * @throws DISK_FRAME_CORRUPT
 */
export function travelling(frame: DataFrame, fileSizeBytes: number, firstNumber: number): number[] {
  const { codec, run, payload } = frame;
  if (codec === CODEC_ZERO) return [];
  if (codec === CODEC_CONTENT) return travellingOfContent(payload, runBytes(run, fileSizeBytes), firstNumber);
  return Array.from({ length: run.count }, (_, at) => at);
}

/**
 * Unpacks and verifies the data of a frame; undefined means zeros. `referenced` are the pages that it refers to.
 * @throws DISK_FRAME_CORRUPT when it does not unpack or its checksum differs
 */
export function unpackData(frame: DataFrame, fileSizeBytes: number, referenced?: Buffer): Buffer | undefined {
  const head = Buffer.alloc(12);
  head.writeUInt32BE(frame.pull, 0);
  head.writeUInt32BE(frame.run.first, 4);
  head.writeUInt32BE(frame.run.count, 8);
  let crc = crc32(head);
  let data: Buffer | undefined;
  if (frame.codec !== CODEC_ZERO) {
    const lengthBytes = runBytes(frame.run, fileSizeBytes);
    try {
      data =
        frame.codec === CODEC_CONTENT
          ? unpackContent(frame.payload, lengthBytes, referenced)
          : decodeBlock(frame.codec, frame.payload, lengthBytes);
    } catch (cause) {
      throw fail('DISK_FRAME_CORRUPT', 'it does not unpack', { cause, fields: { ...frame.run } });
    }
    crc = crc32(data, crc);
  }
  if (crc !== frame.crc) throw fail('DISK_FRAME_CORRUPT', 'checksum', { fields: { ...frame.run } });
  return data;
}
