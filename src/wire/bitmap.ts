import { errorCatalogue } from '../base/errors.ts';

const fail = errorCatalogue({
  BITMAP_INVALID: {
    summary: 'a serialised bitmap is malformed',
    remedy: 'The two sites run different versions of CloudAP, or the state file is damaged.',
  },
});

/** Bits `first` .. `first + count - 1`. */
export interface Run {
  first: number;
  count: number;
}

/** Most bits that one bitmap can have: 2^30 sectors of 4 KiB are 4 TiB, 128 MiB of memory. */
export const MAX_BITMAP_BITS = 2 ** 30;

const HEADER_BYTES = 5;
const KIND_WORDS = 1;
const KIND_RUNS = 2;

function popcount(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  return Math.imul((v + (v >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

/** Bits `from` .. `to - 1` of one 32-bit word, 0 <= from < to <= 32. */
function wordMask(from: number, to: number): number {
  return (0xffffffff << from) & (0xffffffff >>> (32 - to));
}

/**
 * A fixed number of bits, with a running count of those set. Ranges are half open: `from` <= bit < `to`. An index
 * outside of the bitmap is the caller's error (RangeError): check a peer's numbers before they get here.
 */
export class Bitmap {
  readonly length: number;
  readonly #words: Uint32Array;
  #count: number;

  constructor(length: number, filled = false) {
    if (!Number.isInteger(length) || length < 0 || length > MAX_BITMAP_BITS) {
      throw new RangeError(`bitmap of ${length} bits`);
    }
    this.length = length;
    this.#words = new Uint32Array((length + 31) >>> 5);
    this.#count = 0;
    if (filled) this.setRange(0, length);
  }

  /** How many bits are set. */
  get count(): number {
    return this.#count;
  }

  test(bit: number): boolean {
    this.#check(bit, bit + 1);
    return (this.#word(bit >>> 5) & (1 << (bit & 31))) !== 0;
  }

  /** @returns whether the bit changed */
  set(bit: number): boolean {
    return this.setRange(bit, bit + 1) === 1;
  }

  /** @returns whether the bit changed */
  clear(bit: number): boolean {
    return this.clearRange(bit, bit + 1) === 1;
  }

  /** @returns how many bits changed */
  setRange(from: number, to: number): number {
    return this.#change(from, to, true);
  }

  /** @returns how many bits changed */
  clearRange(from: number, to: number): number {
    return this.#change(from, to, false);
  }

  countRange(from: number, to: number): number {
    this.#check(from, to);
    let total = 0;
    for (let at = from; at < to; at = (at | 31) + 1) {
      total += popcount(this.#word(at >>> 5) & wordMask(at & 31, Math.min(32, to - (at & ~31))));
    }
    return total;
  }

  /** The first set bit of `from` .. `to - 1`, or -1. */
  nextSet(from: number, to = this.length): number {
    return this.#next(from, to, 0);
  }

  /** The first clear bit of `from` .. `to - 1`, or -1. */
  nextClear(from: number, to = this.length): number {
    return this.#next(from, to, -1);
  }

  anySet(from: number, to: number): boolean {
    return this.nextSet(from, to) !== -1;
  }

  /** The runs of set bits within `from` .. `to - 1`, in order. Bits may be changed while iterating. */
  *runs(from = 0, to = this.length): Generator<Run> {
    let first = this.nextSet(from, to);
    while (first !== -1) {
      const clear = this.nextClear(first, to);
      const end = clear === -1 ? to : clear;
      yield { first, count: end - first };
      if (end >= to) return;
      first = this.nextSet(end, to);
    }
  }

  clone(): Bitmap {
    const copy = new Bitmap(this.length);
    copy.#words.set(this.#words);
    copy.#count = this.#count;
    return copy;
  }

  equals(other: Bitmap): boolean {
    if (other.length !== this.length || other.#count !== this.#count) return false;
    return this.#words.every((word, index) => word === other.#words[index]);
  }

  /**
   * The smaller of two forms, each after a header of 5 bytes: u8 kind, u32 number of bits (big endian).
   * Kind 1: the words, u32 little endian. Kind 2: LEB128 lengths of runs, clear and set in turn, the first clear.
   */
  serialise(): Buffer {
    const wordBytes = this.#words.length * 4;
    const runs = this.#serialiseRuns(wordBytes);
    const out = Buffer.alloc(HEADER_BYTES + (runs?.length ?? wordBytes));
    out.writeUInt8(runs ? KIND_RUNS : KIND_WORDS, 0);
    out.writeUInt32BE(this.length, 1);
    if (runs) runs.copy(out, HEADER_BYTES);
    else for (const [i, word] of this.#words.entries()) out.writeUInt32LE(word, HEADER_BYTES + i * 4);
    return out;
  }

  /** @throws BITMAP_INVALID, also when it has more than `maxBits` */
  static parse(bytes: Buffer, maxBits: number = MAX_BITMAP_BITS): Bitmap {
    if (bytes.length < HEADER_BYTES) throw fail('BITMAP_INVALID', `${bytes.length} bytes`);
    const length = bytes.readUInt32BE(1);
    if (length > Math.min(maxBits, MAX_BITMAP_BITS)) throw fail('BITMAP_INVALID', `${length} bits`);
    const kind = bytes.readUInt8(0);
    if (kind === KIND_WORDS) return parseWords(bytes, length);
    if (kind === KIND_RUNS) return parseRuns(bytes, length);
    throw fail('BITMAP_INVALID', `kind ${kind}`);
  }

  #serialiseRuns(limitBytes: number): Buffer | undefined {
    const out: number[] = [];
    const put = (value: number): void => {
      let rest = value;
      while (rest > 0x7f) {
        out.push((rest & 0x7f) | 0x80);
        rest >>>= 7;
      }
      out.push(rest);
    };
    let at = 0;
    for (const run of this.runs()) {
      put(run.first - at);
      put(run.count);
      at = run.first + run.count;
      if (out.length >= limitBytes) return undefined;
    }
    return out.length < limitBytes || limitBytes === 0 ? Buffer.from(out) : undefined;
  }

  #word(index: number): number {
    return this.#words[index] ?? 0;
  }

  #check(from: number, to: number): void {
    if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from <= to && to <= this.length)) {
      throw new RangeError(`bits ${from}..${to} of a bitmap of ${this.length}`);
    }
  }

  #change(from: number, to: number, value: boolean): number {
    this.#check(from, to);
    let changed = 0;
    for (let at = from; at < to; at = (at | 31) + 1) {
      const index = at >>> 5;
      const mask = wordMask(at & 31, Math.min(32, to - (at & ~31)));
      const old = this.#word(index);
      changed += popcount((value ? ~old : old) & mask);
      this.#words[index] = value ? old | mask : old & ~mask;
    }
    this.#count += value ? changed : -changed;
    return changed;
  }

  #next(from: number, to: number, invert: number): number {
    this.#check(from, to);
    for (let at = from; at < to; at = (at | 31) + 1) {
      const word = (this.#word(at >>> 5) ^ invert) & (0xffffffff << (at & 31));
      if (word === 0) continue;
      const bit = (at & ~31) + (31 - Math.clz32(word & -word));
      return bit < to ? bit : -1;
    }
    return -1;
  }
}

function parseWords(bytes: Buffer, length: number): Bitmap {
  const words = (length + 31) >>> 5;
  if (bytes.length !== HEADER_BYTES + words * 4) throw fail('BITMAP_INVALID', 'wrong length');
  const bitmap = new Bitmap(length);
  for (let i = 0; i < words; i++) {
    let word = bytes.readUInt32LE(HEADER_BYTES + i * 4);
    while (word !== 0) {
      const bit = i * 32 + 31 - Math.clz32(word & -word);
      if (bit >= length) throw fail('BITMAP_INVALID', 'a bit beyond the end');
      bitmap.set(bit);
      word = (word & (word - 1)) >>> 0;
    }
  }
  return bitmap;
}

function parseRuns(bytes: Buffer, length: number): Bitmap {
  const bitmap = new Bitmap(length);
  let position = HEADER_BYTES;
  let at = 0;
  let set = false;
  while (position < bytes.length) {
    let value = 0;
    let shift = 0;
    let byte: number;
    do {
      byte = bytes[position++] ?? -1;
      if (byte === -1 || shift > 28) throw fail('BITMAP_INVALID', 'a truncated or overlong number');
      value += (byte & 0x7f) * 2 ** shift;
      shift += 7;
    } while (byte & 0x80);
    if (value > length - at) throw fail('BITMAP_INVALID', 'a run beyond the end');
    if (set) bitmap.setRange(at, at + value);
    at += value;
    set = !set;
  }
  return bitmap;
}
