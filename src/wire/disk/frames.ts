/**
 * Messages of disk post-copy, one overlay file from source to target (paper section IV.B, Figures 4 to 6).
 *
 *   source                                         target
 *     AHEAD...              -- urgent -->            metadata as it is while the machine still runs; kept
 *     FREEZE, METADATA...   -- urgent -->            sizes the file, all sectors dirty; metadata lands
 *             AS_AHEAD...   -- urgent -->            metadata that is still as it came ahead
 *                           <-- urgent --  READY     every sector of metadata has landed
 *     PUSH (active push)    -- bulk   -->
 *                           <-- urgent --  PULL      a read of dirty sectors
 *     ANSWER                -- urgent -->            unless its bit was clear: then it is on its way in a PUSH
 *                           <-- urgent --  SYN       sectors that the guest has overwritten: no need to send
 *                           <-- urgent --  PULL+AGAIN   what arrived damaged, or refers to content that is not here;
 *                                                       honoured whatever the bit says
 *     ANSWER, ANSWERED      -- urgent -->            without references; ANSWERED closes a PULL+AGAIN
 *     END                   -- both   -->            the source's bitmap is empty and everything sent on this lane
 *                           <-- urgent --  COMPLETE  no bit is dirty, the file is on stable storage
 *
 * All numbers big endian. Every message begins with u8 version, u8 disk (number of the disk within the migration).
 *
 *   data (AHEAD, METADATA, PUSH, ANSWER), 20 bytes and payload:
 *     u8 version, u8 disk, u8 codec (0 all zeros, 1 raw, 2 rle, 3 zstd, 4 names, see content.ts), u8 0,
 *     u32 pull (0 except in ANSWER), u32 first sector, u32 sectors, u32 crc
 *     crc: CRC-32 of the 12 bytes pull, first, sectors followed by the decoded data (nothing for zeros)
 *   FREEZE    u8 version, u8 disk, u16 0, u32 sector size, u64 file size, u32 metadata sectors, u32 flags (1: qcow2)
 *   AS_AHEAD  u8 version, u8 disk, u16 0, u32 first, u32 sectors, u32 crc of the AHEAD
 *   PULL      u8 version, u8 disk, u8 flags (1: again), u8 0, u32 pull, u32 first, u32 sectors
 *   ANSWERED  u8 version, u8 disk, u16 0, u32 pull
 *   SYN       u8 version, u8 disk, u16 runs, then per run u32 first, u32 sectors (ascending, not touching)
 *   READY, END, COMPLETE   u8 version, u8 disk, u16 0
 */
import type { Run } from '../bitmap.ts';
import {
  MAX_FILE_BYTES,
  MAX_METADATA_BYTES,
  MAX_METADATA_EXTENT_BYTES,
  MAX_PULL_SECTORS,
  MAX_SYN_RUNS,
  SECTOR_BYTES,
} from './constants.ts';
import { fail } from './errors.ts';
import { check, diskOf, readRun, sectorsOf, start } from './message.ts';

export interface FreezeFrame {
  fileSizeBytes: number;
  metadataSectors: number;
  qcow2: boolean;
}

export interface PullFrame {
  pull: number;
  run: Run;
  again: boolean;
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

export interface AsAheadFrame {
  run: Run;
  crc: number;
}

export function encodeAsAhead(disk: number, { run, crc }: AsAheadFrame): Buffer {
  const out = start(16, disk);
  out.writeUInt32BE(run.first, 4);
  out.writeUInt32BE(run.count, 8);
  out.writeUInt32BE(crc, 12);
  return out;
}

export function decodeAsAhead(message: Buffer, sectors: number): AsAheadFrame {
  check(message, 16);
  const run = readRun(message, 4, sectors, MAX_METADATA_EXTENT_BYTES / SECTOR_BYTES);
  return { run, crc: message.readUInt32BE(12) };
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
