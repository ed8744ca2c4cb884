/**
 * Run-length encoding of sector and page data, after section IV.B of the paper: long serial runs of bit 0 or bit 1 are
 * what most dirty sectors contain, so a 4 KB sector shrinks to between a few bytes and its own size.
 *
 * Unit is the 32-bit word, so that JavaScript can scan through typed arrays. An encoding is a row of groups:
 *
 *   control u32   bits 30..31 kind, bits 15..29 number of literal words L, bits 0..14 length of the run R in words
 *   L words       copied as they are
 *   [word]        only for kind 3: the word that repeats
 *
 *   kind 0: no run (R = 0)   1: R words of 0x00000000   2: R words of 0xffffffff   3: R times the word
 *
 * Words stand in the order of the machine that wrote them; every machine that CloudAP runs on is little endian.
 */

/** Longest source of one encoding. */
export const RLE_MAX_BYTES = 1024 * 1024;
/** A source is a whole number of these. */
export const RLE_UNIT_BYTES = 8;

const MAX_COUNT = 0x7fff;
const KIND_ZERO = 1;
const KIND_ONES = 2;
const KIND_WORD = 3;
const ONES = 0xffffffff;
/** A run costs its control word, and one more for a word that is neither all 0 nor all 1. */
const MIN_WORD_RUN = 3;

/** Aligned copies of the source and of the result; grown to what was needed so far. */
let input = new Uint32Array(2048);
let output = new Uint32Array(2048);
let inputBytes = Buffer.from(input.buffer);
let outputBytes = Buffer.from(output.buffer);

function reserve(words: number): void {
  if (input.length >= words) return;
  const size = 2 ** Math.ceil(Math.log2(words));
  input = new Uint32Array(size);
  output = new Uint32Array(size);
  inputBytes = Buffer.from(input.buffer);
  outputBytes = Buffer.from(output.buffer);
}

/** Room for the trailing control words that an incompressible source of the largest size can need. */
const SLACK_WORDS = 16;

/** Whether a block of this length can be run-length encoded at all. */
export function rleAccepts(lengthBytes: number): boolean {
  return lengthBytes > 0 && lengthBytes <= RLE_MAX_BYTES && lengthBytes % RLE_UNIT_BYTES === 0;
}

/**
 * Encodes `src[start, end)` into `out` at `outOffset`.
 * @returns bytes written; -1 if that would not be smaller than the source, if `out` has no room for it, or if the
 * source has a length that `rleAccepts` denies (send it raw then)
 */
export function rleEncode(
  src: Buffer,
  out: Buffer,
  outOffset: number,
  start = 0,
  end: number = src.length,
): number {
  const lengthBytes = end - start;
  if (!rleAccepts(lengthBytes)) return -1;
  const count = lengthBytes >>> 2;
  reserve(count + SLACK_WORDS);
  src.copy(inputBytes, 0, start, end);
  const written = encodeWords(input, count, output) << 2;
  if (written >= lengthBytes || outOffset + written > out.length) return -1;
  outputBytes.copy(out, outOffset, 0, written);
  return written;
}

/** Returns words written to `out`, at most `count` + SLACK_WORDS. `src[count]` is overwritten. */
function encodeWords(src: Uint32Array, count: number, out: Uint32Array): number {
  // A sentinel that differs from the last word ends every scan without a bounds check.
  src[count] = ~(src[count - 1] as number);
  let control = 0;
  let at = 1;
  let i = 0;
  let word = src[0] as number;
  while (i < count) {
    const next = src[i + 1] as number;
    if (next !== word) {
      out[at++] = word;
      word = next;
      i++;
    } else {
      let j = i + 2;
      while (src[j] === word) j++;
      let run = j - i;
      const kind = word === 0 ? KIND_ZERO : word === ONES ? KIND_ONES : KIND_WORD;
      if (kind === KIND_WORD && run < MIN_WORD_RUN) {
        out[at++] = word;
        out[at++] = word;
      } else {
        while (run > 0) {
          const part = run > MAX_COUNT ? MAX_COUNT : run;
          out[control] = (kind << 30) | ((at - control - 1) << 15) | part;
          if (kind === KIND_WORD) out[at++] = word;
          control = at++;
          run -= part;
        }
      }
      i = j;
      word = src[i] as number;
    }
    if (at - control > MAX_COUNT - 1) {
      out[control] = (at - control - 1) << 15;
      control = at++;
    }
  }
  if (at - control === 1) return control;
  out[control] = (at - control - 1) << 15;
  return at;
}

/**
 * Decodes `src[start, end)` into `out[outOffset, outOffset + lengthBytes)`. Safe on any input: nothing is written to
 * `out` unless the encoding is whole and yields exactly `lengthBytes`.
 * @returns whether the encoding was valid
 */
export function rleDecode(
  src: Buffer,
  out: Buffer,
  outOffset: number,
  lengthBytes: number,
  start = 0,
  end: number = src.length,
): boolean {
  const encodedBytes = end - start;
  if (!rleAccepts(lengthBytes) || encodedBytes <= 0 || encodedBytes % 4 !== 0) return false;
  if (encodedBytes >= lengthBytes || start < 0 || end > src.length) return false;
  if (outOffset < 0 || outOffset + lengthBytes > out.length) return false;
  const count = lengthBytes >>> 2;
  reserve(count + SLACK_WORDS);
  src.copy(inputBytes, 0, start, end);
  if (!decodeWords(input, encodedBytes >>> 2, output, count)) return false;
  outputBytes.copy(out, outOffset, 0, lengthBytes);
  return true;
}

function decodeWords(src: Uint32Array, srcCount: number, out: Uint32Array, outCount: number): boolean {
  let i = 0;
  let at = 0;
  while (i < srcCount) {
    const control = src[i++] as number;
    const kind = control >>> 30;
    const literals = (control >>> 15) & MAX_COUNT;
    const run = control & MAX_COUNT;
    if ((kind === 0) !== (run === 0) || literals + run === 0) return false;
    if (literals > srcCount - i || literals + run > outCount - at) return false;
    for (const stop = i + literals; i < stop; ) out[at++] = src[i++] as number;
    if (run === 0) continue;
    let word = kind === KIND_ONES ? ONES : 0;
    if (kind === KIND_WORD) {
      if (i === srcCount) return false;
      word = src[i++] as number;
    }
    const stop = at + run;
    if (run > 64) out.fill(word, at, stop);
    else for (let k = at; k < stop; k++) out[k] = word;
    at = stop;
  }
  return at === outCount;
}
