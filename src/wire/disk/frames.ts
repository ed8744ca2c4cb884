/**
 * Messages of disk post-copy, one overlay file from source to target (paper section IV.B, Figures 4 to 6).
 *
 *   source                                         target
 *     FREEZE, METADATA...   -- urgent -->            sizes the file, all sectors dirty; metadata lands
 *                           <-- urgent --  READY     every sector of metadata has landed
 *     PUSH (active push)    -- bulk   -->
 *                           <-- urgent --  PULL      a read of dirty sectors
 *     ANSWER                -- urgent -->            unless its bit was clear: then it is on its way in a PUSH
 *                           <-- urgent --  SYN       sectors that the guest has overwritten: no need to send
 *                           <-- urgent --  PULL+AGAIN   what arrived damaged; honoured whatever the bit says
 *     ANSWER, ANSWERED      -- urgent -->            ANSWERED closes a PULL+AGAIN
 *     END                   -- both   -->            the source's bitmap is empty and everything sent on this lane
 *                           <-- urgent --  COMPLETE  no bit is dirty, the file is on stable storage
 *
 * All numbers big endian. Every message begins with u8 version, u8 disk (number of the disk within the migration).
 *
 *   data (METADATA, PUSH, ANSWER), 20 bytes and payload:
 *     u8 version, u8 disk, u8 codec (0 all zeros, 1 raw, 2 rle, 3 zstd), u8 0,
 *     u32 pull (0 except in ANSWER), u32 first sector, u32 sectors, u32 crc
 *     crc: CRC-32 of the 12 bytes pull, first, sectors followed by the decoded data (nothing for zeros)
 *   FREEZE    u8 version, u8 disk, u16 0, u32 sector size, u64 file size, u32 metadata sectors, u32 flags (1: qcow2)
 *   PULL      u8 version, u8 disk, u8 flags (1: again), u8 0, u32 pull, u32 first, u32 sectors
 *   ANSWERED  u8 version, u8 disk, u16 0, u32 pull
 *   SYN       u8 version, u8 disk, u16 runs, then per run u32 first, u32 sectors (ascending, not touching)
 *   READY, END, COMPLETE   u8 version, u8 disk, u16 0
 */
import { crc32 } from 'node:zlib';
import type { Run } from '../bitmap.ts';
import { CODEC_RAW, type CodecId, decodeBlock, encodeBlock } from '../codec.ts';
import {
  CODEC_ZERO,
  DISK_TYPE_MAX,
  DISK_TYPE_MIN,
  DISK_VERSION,
  MAX_EXTENT_BYTES,
  MAX_FILE_BYTES,
  MAX_METADATA_BYTES,
  MAX_METADATA_EXTENT_BYTES,
  MAX_PULL_SECTORS,
  MAX_SYN_RUNS,
  MAX_ZERO_SECTORS,
  SECTOR_BYTES,
} from './constants.ts';
import { fail } from './errors.ts';

const DATA_HEADER_BYTES = 20;
const ZEROS = Buffer.alloc(MAX_METADATA_EXTENT_BYTES);

export interface FreezeFrame {
  fileSizeBytes: number;
  metadataSectors: number;
  qcow2: boolean;
}

export interface DataFrame {
  codec: CodecId | typeof CODEC_ZERO;
  /** Number of the pull that this answers, 0 if none. */
  pull: number;
  run: Run;
  crc: number;
  payload: Buffer;
}

export interface PullFrame {
  pull: number;
  run: Run;
  again: boolean;
}

export function sectorsOf(fileSizeBytes: number): number {
  return Math.ceil(fileSizeBytes / SECTOR_BYTES);
}

/** Bytes of the file that a run covers: less than its sectors' where the file ends inside the last one. */
export function runBytes(run: Run, fileSizeBytes: number): number {
  return Math.min((run.first + run.count) * SECTOR_BYTES, fileSizeBytes) - run.first * SECTOR_BYTES;
}

export function isZero(data: Buffer): boolean {
  for (let at = 0; at < data.length; at += ZEROS.length) {
    const part = data.subarray(at, at + ZEROS.length);
    if (part.compare(ZEROS, 0, part.length) !== 0) return false;
  }
  return true;
}

/** Whether a link message is the disk's. */
export function isDiskMessage(type: number): boolean {
  return type >= DISK_TYPE_MIN && type <= DISK_TYPE_MAX;
}

/** The disk that a message is about. @throws DISK_FRAME_INVALID, DISK_VERSION */
export function diskOf(message: Buffer): number {
  if (message.length < 4) throw fail('DISK_FRAME_INVALID', `${message.length} bytes`);
  const version = message.readUInt8(0);
  if (version !== DISK_VERSION) throw fail('DISK_VERSION', `${version}, this side ${DISK_VERSION}`);
  return message.readUInt8(1);
}

function start(lengthBytes: number, disk: number): Buffer {
  const out = Buffer.alloc(lengthBytes);
  out.writeUInt8(DISK_VERSION, 0);
  out.writeUInt8(disk, 1);
  return out;
}

/** Checks version, length and reserved bits (those of `allowed` may be set in bytes 2..3). */
function check(message: Buffer, lengthBytes: number, allowed = 0): void {
  diskOf(message);
  if (message.length !== lengthBytes || message.readUInt16BE(2) & ~allowed) {
    throw fail('DISK_FRAME_INVALID', `${message.length} bytes, flags ${message.readUInt16BE(2)}`);
  }
}

function readRun(message: Buffer, at: number, sectors: number, maxSectors: number): Run {
  const run = { first: message.readUInt32BE(at), count: message.readUInt32BE(at + 4) };
  if (run.count === 0 || run.count > maxSectors || run.first + run.count > sectors) {
    throw fail('DISK_OUT_OF_RANGE', `${run.count} sectors at ${run.first} of ${sectors}`, {
      fields: { ...run },
    });
  }
  return run;
}

export function encodeFreeze(disk: number, frame: FreezeFrame): Buffer {
  const out = start(24, disk);
  out.writeUInt32BE(SECTOR_BYTES, 4);
  out.writeBigUInt64BE(BigInt(frame.fileSizeBytes), 8);
  out.writeUInt32BE(frame.metadataSectors, 16);
  out.writeUInt32BE(frame.qcow2 ? 1 : 0, 20);
  return out;
}

export function decodeFreeze(message: Buffer): FreezeFrame {
  check(message, 24);
  const fileSizeBytes = message.readBigUInt64BE(8);
  const metadataSectors = message.readUInt32BE(16);
  const flags = message.readUInt32BE(20);
  if (message.readUInt32BE(4) !== SECTOR_BYTES || flags > 1) throw fail('DISK_FRAME_INVALID', 'FREEZE');
  if (fileSizeBytes > BigInt(MAX_FILE_BYTES))
    throw fail('DISK_OUT_OF_RANGE', `a file of ${fileSizeBytes} bytes`);
  const size = Number(fileSizeBytes);
  if (metadataSectors > Math.min(sectorsOf(size), MAX_METADATA_BYTES / SECTOR_BYTES)) {
    throw fail('DISK_OUT_OF_RANGE', `${metadataSectors} sectors of metadata`);
  }
  return { fileSizeBytes: size, metadataSectors, qcow2: flags === 1 };
}

/** Packs one extent; `data` must not be changed afterwards (with codec raw it is copied into the message). */
export function encodeData(disk: number, pull: number, run: Run, data: Buffer, codec: CodecId): Buffer {
  const zero = isZero(data);
  const block = zero ? undefined : encodeBlock(codec, data);
  const out = start(DATA_HEADER_BYTES, disk);
  out.writeUInt8(block?.codec ?? CODEC_ZERO, 2);
  out.writeUInt32BE(pull, 4);
  out.writeUInt32BE(run.first, 8);
  out.writeUInt32BE(run.count, 12);
  const seed = crc32(out.subarray(4, 16));
  out.writeUInt32BE(block ? crc32(data, seed) : seed, 16);
  return block ? Buffer.concat([out, block.payload]) : out;
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
  if (codec > 3 || message.readUInt8(3) !== 0) throw fail('DISK_FRAME_INVALID', `codec ${codec}`);
  const maxSectors = codec === CODEC_ZERO ? MAX_ZERO_SECTORS : maxBytes / SECTOR_BYTES;
  const run = readRun(message, 8, sectorsOf(fileSizeBytes), maxSectors);
  const payload = message.subarray(DATA_HEADER_BYTES);
  const lengthBytes = runBytes(run, fileSizeBytes);
  const fits =
    codec === CODEC_ZERO
      ? payload.length === 0
      : codec === CODEC_RAW
        ? payload.length === lengthBytes
        : payload.length > 0 && payload.length < lengthBytes;
  if (!fits) throw fail('DISK_FRAME_INVALID', `${payload.length} bytes of payload for ${lengthBytes}`);
  return {
    codec: codec as DataFrame['codec'],
    pull: message.readUInt32BE(4),
    run,
    crc: message.readUInt32BE(16),
    payload,
  };
}

/**
 * Unpacks and verifies the data of a frame; undefined means zeros.
 * @throws DISK_FRAME_CORRUPT when it does not unpack or its checksum differs
 */
export function unpackData(frame: DataFrame, fileSizeBytes: number): Buffer | undefined {
  const head = Buffer.alloc(12);
  head.writeUInt32BE(frame.pull, 0);
  head.writeUInt32BE(frame.run.first, 4);
  head.writeUInt32BE(frame.run.count, 8);
  let crc = crc32(head);
  let data: Buffer | undefined;
  if (frame.codec !== CODEC_ZERO) {
    try {
      data = decodeBlock(frame.codec, frame.payload, runBytes(frame.run, fileSizeBytes));
    } catch (cause) {
      throw fail('DISK_FRAME_CORRUPT', 'it does not unpack', { cause, fields: { ...frame.run } });
    }
    crc = crc32(data, crc);
  }
  if (crc !== frame.crc) throw fail('DISK_FRAME_CORRUPT', 'checksum', { fields: { ...frame.run } });
  return data;
}

export function encodePull(disk: number, frame: PullFrame): Buffer {
  const out = start(16, disk);
  out.writeUInt8(frame.again ? 1 : 0, 2);
  out.writeUInt32BE(frame.pull, 4);
  out.writeUInt32BE(frame.run.first, 8);
  out.writeUInt32BE(frame.run.count, 12);
  return out;
}

export function decodePull(message: Buffer, sectors: number): PullFrame {
  check(message, 16, 0x0100);
  const pull = message.readUInt32BE(4);
  if (pull === 0) throw fail('DISK_FRAME_INVALID', 'a pull without number');
  return { pull, run: readRun(message, 8, sectors, MAX_PULL_SECTORS), again: message.readUInt8(2) === 1 };
}

/** `runs` ascending and apart, at most MAX_SYN_RUNS. */
export function encodeSyn(disk: number, runs: readonly Run[]): Buffer {
  const out = start(4 + runs.length * 8, disk);
  out.writeUInt16BE(runs.length, 2);
  for (const [i, run] of runs.entries()) {
    out.writeUInt32BE(run.first, 4 + i * 8);
    out.writeUInt32BE(run.count, 8 + i * 8);
  }
  return out;
}

export function decodeSyn(message: Buffer, sectors: number): Run[] {
  diskOf(message);
  const count = message.readUInt16BE(2);
  if (count === 0 || count > MAX_SYN_RUNS || message.length !== 4 + count * 8) {
    throw fail('DISK_FRAME_INVALID', `SYN of ${count} runs in ${message.length} bytes`);
  }
  const runs: Run[] = [];
  let end = -1;
  for (let i = 0; i < count; i++) {
    const run = readRun(message, 4 + i * 8, sectors, sectors);
    if (run.first <= end) throw fail('DISK_FRAME_INVALID', 'runs of a SYN overlap or are not in order');
    end = run.first + run.count;
    runs.push(run);
  }
  return runs;
}

export function encodeAnswered(disk: number, pull: number): Buffer {
  const out = start(8, disk);
  out.writeUInt32BE(pull, 4);
  return out;
}

export function decodeAnswered(message: Buffer): number {
  check(message, 8);
  return message.readUInt32BE(4);
}

/** READY, END and COMPLETE. */
export function encodeMark(disk: number): Buffer {
  return start(4, disk);
}

export function decodeMark(message: Buffer): void {
  check(message, 4);
}
