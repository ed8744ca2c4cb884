import { isZero, SECTOR_BYTES } from '../../wire/disk/index.ts';
import type { PageSink } from '../../wire/qemu-stream/content.ts';

/** Takes the sectors that travel, lane by lane: the source's in the order of sending, the target's in that of arrival. */
export interface DiskNotes {
  readonly bulk: PageSink;
  readonly urgent: PageSink;
  /** What the other end has noted is not known here. */
  lost(detail: string): void;
}

/** Notes the sectors of an extent that are not all zero; one that the file's end cuts off is filled up with zeros. */
export function noteSectors(sink: PageSink | undefined, data: Buffer): void {
  if (!sink) return;
  for (let at = 0; at < data.length; at += SECTOR_BYTES) {
    const sector = data.subarray(at, at + SECTOR_BYTES);
    if (isZero(sector)) continue;
    if (sector.length === SECTOR_BYTES) {
      sink.add(data, at);
      continue;
    }
    const whole = Buffer.alloc(SECTOR_BYTES);
    sector.copy(whole);
    sink.add(whole, 0);
  }
}
