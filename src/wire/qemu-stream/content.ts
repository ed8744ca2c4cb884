/**
 * Pages that need not travel: content that the far side holds in a file (a reference), and content that this channel has
 * sent before (a repeat). Nothing here does I/O: a lookup and the bodies of references come from outside.
 */
import { PAGE_BYTES, REPEAT_WINDOW_MAX_PAGES } from './constants.ts';

/** What the far side is known to hold. */
export interface ContentLookup {
  /** Number under which the far side has the page `buf[start, start + PAGE_BYTES)`, or -1. `crc` is its CRC-32. */
  find(buf: Buffer, start: number, crc: number): number;
}

/** Takes pages, `buf[start, start + PAGE_BYTES)`, one after the other; it copies what it keeps. */
export interface PageSink {
  add(buf: Buffer, start: number): void;
}

/**
 * What the two ends of a channel note alike: residue (content/residue) is what a site keeps of a VM that left. The sink gets
 * the bodies that travel as bytes and those of references to residue, in the order of the stream.
 */
export interface ResidueRule {
  /** References from this number on are to residue; those below are to content that stays. */
  readonly firstNumber: number;
  readonly sink?: PageSink | undefined;
}

/** How many bodies a channel's two ends keep; asked for more, they take REPEAT_WINDOW_MAX_PAGES. */
function windowPages(pages: number): number {
  return Math.max(0, Math.min(REPEAT_WINDOW_MAX_PAGES, Math.floor(pages)));
}

/**
 * The window of repeats, at either end. Both ends add the bodies that travel as bytes (token `data`), and no others, in
 * the order of the stream; with W pages, body k stands in slot k mod W and goes when body k + W comes. So at each
 * point of the stream both hold the same last W bodies.
 */
class BodyWindow {
  protected readonly pages: number;
  protected readonly bodies: Buffer;
  /** Slot of the next body. */
  protected slot = 0;
  /** Slots in use. */
  protected used = 0;

  constructor(pages: number) {
    this.pages = windowPages(pages);
    // Not touched by us before it is used, so that the system backs it with memory only then.
    this.bodies = Buffer.allocUnsafeSlow(this.pages * PAGE_BYTES);
  }

  /** Takes in a body that travels as bytes. */
  add(buf: Buffer, start: number): void {
    if (this.pages === 0) return;
    buf.copy(this.bodies, this.slot * PAGE_BYTES, start, start + PAGE_BYTES);
    this.slot = this.slot + 1 === this.pages ? 0 : this.slot + 1;
    if (this.used < this.pages) this.used++;
  }
}

/** The target's end. */
export class RepeatWindow extends BodyWindow {
  /** Copies the body that is `back` bodies back (1: the last one); false if the window does not hold it. */
  copy(back: number, out: Buffer, at: number): boolean {
    if (!(back >= 1 && back <= this.used)) return false;
    const slot = (this.slot - back + this.pages) % this.pages;
    this.bodies.copy(out, at, slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
    return true;
  }
}

/** Places for each page of the window in the table of checksums, so that few bodies push each other out. */
const PLACES_PER_PAGE = 4;

/** The source's end: finds bodies by their checksum, and compares them whole. */
export class SentWindow extends BodyWindow {
  readonly #crcs: Uint32Array;
  /** Slot by the low bits of its checksum, -1 for none; the newest body wins. */
  readonly #places: Int32Array;
  readonly #mask: number;

  constructor(pages: number) {
    super(pages);
    this.#crcs = new Uint32Array(this.pages);
    const places = 2 ** Math.ceil(Math.log2(Math.max(1, this.pages * PLACES_PER_PAGE)));
    this.#places = new Int32Array(places).fill(-1);
    this.#mask = places - 1;
  }

  /** How far back the same body was sent as bytes (1: it was the last one), or 0. */
  find(buf: Buffer, start: number, crc: number): number {
    const slot = this.#places[crc & this.#mask] as number;
    if (slot < 0 || this.#crcs[slot] !== crc) return 0;
    const at = slot * PAGE_BYTES;
    if (buf.compare(this.bodies, at, at + PAGE_BYTES, start, start + PAGE_BYTES) !== 0) return 0;
    const back = this.slot - slot;
    return back > 0 ? back : back + this.pages;
  }

  /** As `add`, for `find` to know it. */
  remember(buf: Buffer, start: number, crc: number): void {
    if (this.pages === 0) return;
    this.#crcs[this.slot] = crc;
    this.#places[crc & this.#mask] = this.slot;
    this.add(buf, start);
  }
}
