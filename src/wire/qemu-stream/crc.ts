import { crc32 } from 'node:zlib';
import { PAGE_BYTES } from './constants.ts';

/** CRC-32 of IEEE 802.3, bits reflected: what zlib computes. */
const POLYNOMIAL = 0xedb88320;
/** Below this many bytes a call into zlib costs more than the bytes do. */
const SHORT_BYTES = 64;

const byteTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  return value;
});

/**
 * What `PAGE_BYTES` zero bytes make of a checksum, by its four bytes: appending data is linear over GF(2), so that the
 * checksum of two pieces follows from theirs (zlib's crc32_combine with a fixed length).
 */
const pageShift = shiftTables(8 * PAGE_BYTES);

function shiftTables(bits: number): readonly [Uint32Array, Uint32Array, Uint32Array, Uint32Array] {
  // Row i: what one zero bit makes of the value 1 << i. Squaring the matrix doubles the number of bits.
  let rows = Uint32Array.from({ length: 32 }, (_, i) => (i === 0 ? POLYNOMIAL : 2 ** (i - 1)));
  for (let done = 1; done < bits; done *= 2) {
    const half = rows;
    rows = half.map((row) => times(half, row));
  }
  const table = (byte: number): Uint32Array =>
    Uint32Array.from({ length: 256 }, (_, value) => times(rows, value * 2 ** (8 * byte)));
  return [table(0), table(1), table(2), table(3)];
}

function times(rows: Uint32Array, vector: number): number {
  let sum = 0;
  for (let i = 0, rest = vector; rest !== 0; i++, rest >>>= 1) if (rest & 1) sum ^= rows[i] as number;
  return sum >>> 0;
}

/** Checksum of a piece with checksum `before`, followed by a page with checksum `page`. */
export function crcWithPage(before: number, page: number): number {
  const [b0, b1, b2, b3] = pageShift;
  const low = (b0[before & 0xff] as number) ^ (b1[(before >>> 8) & 0xff] as number);
  const high = (b2[(before >>> 16) & 0xff] as number) ^ (b3[before >>> 24] as number);
  return (low ^ high ^ page) >>> 0;
}

/** Checksum over consecutive ranges: neighbours in one buffer cost one call. */
export class RunningCrc {
  #value = 0;
  #buf: Buffer | undefined;
  #start = 0;
  #end = 0;

  add(buf: Buffer, start: number, end: number): void {
    if (buf === this.#buf && start === this.#end) {
      this.#end = end;
      return;
    }
    this.settle();
    this.#buf = buf;
    this.#start = start;
    this.#end = end;
  }

  /** A page follows whose checksum is known already. */
  addPage(crc: number): void {
    this.settle();
    this.#value = crcWithPage(this.#value, crc);
  }

  /** Takes in what is pending, so that the buffer may be reused. */
  settle(): void {
    const buf = this.#buf;
    if (buf === undefined) return;
    if (this.#end - this.#start > SHORT_BYTES) {
      this.#value = crc32(buf.subarray(this.#start, this.#end), this.#value);
    } else {
      let value = ~this.#value;
      for (let i = this.#start; i < this.#end; i++)
        value = (byteTable[(value ^ (buf[i] as number)) & 0xff] as number) ^ (value >>> 8);
      this.#value = ~value >>> 0;
    }
    this.#buf = undefined;
  }

  take(): number {
    this.settle();
    const value = this.#value;
    this.#value = 0;
    return value;
  }
}
