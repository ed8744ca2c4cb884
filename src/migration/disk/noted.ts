import * as disk from '../../wire/disk/index.ts';

/**
 * Takes the sectors of the overlay that travel: as bytes, or as references to residue. By their place in the file, which
 * stands still: however often and in whatever order they come, both ends note the same.
 */
export interface DiskNotes {
  /** References from this number on are to residue. */
  readonly firstNumber: number;
  /** Takes sector `sector` of the file; it copies what it keeps. */
  add(sector: number, buf: Buffer, start: number): void;
  /** What nobody waits for may be held up until there is room for more; undefined: there is. */
  room(): Promise<void> | undefined;
  /** What the other end has noted is not known here. */
  lost(detail: string): void;
}

/** Notes what travels in a frame with this data; a sector that the file's end cuts off is filled up with zeros. */
export function noteFrame(
  notes: DiskNotes,
  frame: disk.DataFrame,
  data: Buffer,
  fileSizeBytes: number,
): void {
  for (const at of disk.travelling(frame, fileSizeBytes, notes.firstNumber)) {
    const sector = data.subarray(at * disk.SECTOR_BYTES, (at + 1) * disk.SECTOR_BYTES);
    if (disk.isZero(sector)) continue;
    const whole = sector.length === disk.SECTOR_BYTES ? sector : padded(sector);
    notes.add(frame.run.first + at, whole, 0);
  }
}

/** The source's end: from the message itself, so that both ends go by the same. */
export function noteMessage(notes: DiskNotes, message: Buffer, data: Buffer, fileSizeBytes: number): void {
  noteFrame(
    notes,
    disk.decodeData(message, fileSizeBytes, disk.MAX_METADATA_EXTENT_BYTES),
    data,
    fileSizeBytes,
  );
}

function padded(sector: Buffer): Buffer {
  const whole = Buffer.alloc(disk.SECTOR_BYTES);
  sector.copy(whole);
  return whole;
}
