/** What all disk messages have in common; their layouts stand in frames.ts. */
import type { Run } from '../bitmap.ts';
import { DISK_TYPE_MAX, DISK_TYPE_MIN, DISK_VERSION, SECTOR_BYTES } from './constants.ts';
import { fail } from './errors.ts';

export function sectorsOf(fileSizeBytes: number): number {
  return Math.ceil(fileSizeBytes / SECTOR_BYTES);
}

/** Bytes of the file that a run covers: less than its sectors' where the file ends inside the last one. */
export function runBytes(run: Run, fileSizeBytes: number): number {
  return Math.min((run.first + run.count) * SECTOR_BYTES, fileSizeBytes) - run.first * SECTOR_BYTES;
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

/** A message of this length with its first two bytes. */
export function start(lengthBytes: number, disk: number): Buffer {
  const out = Buffer.alloc(lengthBytes);
  out.writeUInt8(DISK_VERSION, 0);
  out.writeUInt8(disk, 1);
  return out;
}

/** Checks version, length and reserved bits (those of `allowed` may be set in bytes 2..3). */
export function check(message: Buffer, lengthBytes: number, allowed = 0): void {
  diskOf(message);
  if (message.length !== lengthBytes || message.readUInt16BE(2) & ~allowed) {
    throw fail('DISK_FRAME_INVALID', `${message.length} bytes, flags ${message.readUInt16BE(2)}`);
  }
}

export function readRun(message: Buffer, at: number, sectors: number, maxSectors: number): Run {
  const run = { first: message.readUInt32BE(at), count: message.readUInt32BE(at + 4) };
  if (run.count === 0 || run.count > maxSectors || run.first + run.count > sectors) {
    throw fail('DISK_OUT_OF_RANGE', `${run.count} sectors at ${run.first} of ${sectors}`, {
      fields: { ...run },
    });
  }
  return run;
}
