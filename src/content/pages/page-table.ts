import { PROBES_MAX } from './constants.ts';
import { hashMatches, pageHash } from './hash.ts';
import type { PageColumns } from './page-index.ts';

/** Smallest power of two that leaves half of the places empty. */
function placesFor(entries: number): number {
  return 2 ** Math.max(4, Math.ceil(Math.log2(2 * entries + 1)));
}

/**
 * Hash table from a page's checksum to its ordinal in the columns: open addressing, 4 bytes a place. The checksum is
 * weak and only says where to look; what counts is the SHA-256.
 */
export class PageTable {
  #places: Uint32Array;
  #mask: number;

  /** `entries` is how many there will be; more make it grow. */
  constructor(entries: number) {
    this.#places = new Uint32Array(placesFor(entries));
    this.#mask = this.#places.length - 1;
  }

  get byteLength(): number {
    return this.#places.byteLength;
  }

  insert(crc: number, ordinal: number): void {
    let place = crc & this.#mask;
    while (this.#places[place] !== 0) place = (place + 1) & this.#mask;
    this.#places[place] = ordinal + 1;
  }

  /** Makes room for one more than the `columns` hold. */
  reserve(columns: PageColumns): void {
    if (2 * (columns.entries + 1) <= this.#places.length) return;
    this.#places = new Uint32Array(2 * this.#places.length);
    this.#mask = this.#places.length - 1;
    for (let i = 0; i < columns.entries; i++) this.insert(columns.crcs[i] as number, i);
  }

  /** Ordinal of the page at `buf[start]`, or -1. It is hashed only where the checksum is known. */
  find(columns: PageColumns, buf: Buffer, start: number, crc: number): number {
    let text: string | undefined;
    let place = crc & this.#mask;
    for (let probes = 0; probes < PROBES_MAX; probes++) {
      const entry = this.#places[place] as number;
      if (entry === 0) return -1;
      const ordinal = entry - 1;
      if (columns.crcs[ordinal] === crc) {
        text ??= pageHash(buf, start);
        if (hashMatches(columns.hashes, ordinal, text)) return ordinal;
      }
      place = (place + 1) & this.#mask;
    }
    return -1;
  }
}
