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
const ONES = -1;
/** A run costs its control word, and one more for a word that is neither all 0 nor all 1. */
const MIN_WORD_RUN = 3;

/** Aligned copies of the source and of the result; grown to what was needed so far. Signed: V8 keeps these unboxed. */
let input = new Int32Array(2048);
let output = new Int32Array(2048);
let inputBytes = Buffer.from(input.buffer);
let outputBytes = Buffer.from(output.buffer);

function reserve(words: number): void {
  if (input.length >= words) return;
  const size = 2 ** Math.ceil(Math.log2(words));
  input = new Int32Array(size);
  output = new Int32Array(size);
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

/** Returns words written to `out`, more than `count` if there is no run. Overwrites the two words after the source. */
function encodeWords(src: Int32Array, count: number, out: Int32Array): number {
  // Two equal words that differ from the last one end both kinds of scan without a bounds check.
  const sentinel = ~(src[count - 1] as number);
  src[count] = sentinel;
  src[count + 1] = sentinel;
  let literalsFrom = 0;
  let at = 0;
  let i = 0;
  for (;;) {
    i = nextPair(src, i);
    if (i >= count) break;
    const word = src[i] as number;
    let end = i + 2;
    while (src[end] === word) end++;
    const kind = word === 0 ? KIND_ZERO : word === ONES ? KIND_ONES : KIND_WORD;
    if (kind !== KIND_WORD || end - i >= MIN_WORD_RUN) {
      at = putGroup(src, literalsFrom, i, out, at, kind, end - i);
      literalsFrom = end;
    }
    i = end;
  }
  if (literalsFrom === 0) return count + 1;
  return literalsFrom === count ? at : putGroup(src, literalsFrom, count, out, at, 0, 0);
}

/** Index of the first word from `from` on that equals its neighbour. */
function nextPair(src: Int32Array, from: number): number {
  let i = from;
  let word = src[i];
  for (;;) {
    const next = src[i + 1];
    if (word === next) return i;
    word = src[i + 2];
    if (next === word) return i + 1;
    i += 2;
  }
}

/** Writes `src[from, to)` as literals and a run behind them, in as many groups as it takes; returns where `out` ends. */
function putGroup(
  src: Int32Array,
  from: number,
  to: number,
  out: Int32Array,
  outAt: number,
  kind: number,
  run: number,
): number {
  let at = outAt;
  let i = from;
  let left = run;
  do {
    const literals = Math.min(to - i, MAX_COUNT);
    const part = i + literals === to ? Math.min(left, MAX_COUNT) : 0;
    out[at++] = ((part === 0 ? 0 : kind) << 30) | (literals << 15) | part;
    for (const stop = i + literals; i < stop; ) out[at++] = src[i++] as number;
    if (part > 0 && kind === KIND_WORD) out[at++] = src[to] as number;
    left -= part;
  } while (i < to || left > 0);
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

function decodeWords(src: Int32Array, srcCount: number, out: Int32Array, outCount: number): boolean {
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
