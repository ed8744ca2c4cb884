/**
 * Tokens of a memory frame: what the records were, without the pages' bodies. A decoder keeps the number of the next
 * page (0 at the start of a frame) and the block name waiting for the next record (none at the start). Numbers are
 * varints (7 bits a byte, low ones first, top bit: more follow).
 *
 *   1 data n      n records "PAGE" of consecutive pages, each with the next body
 *   2 zero n      n records "ZERO" of consecutive pages
 *   3 blank n     n records "PAGE" of consecutive pages whose bodies are all zero
 *   4 seek p      the next page is p
 *   5 skip d      the next page is d further on
 *   6 name l, l B the next record names this block; all others carry the flag CONTINUE
 *   7 literal l, l B   l bytes of the stream as they are
 *   8 reference n r    n records "PAGE" of consecutive pages, with the bodies r, r + 1, ... of the content agreed on
 *   9 repeat n b       n records "PAGE" of consecutive pages, each with the body that travelled b bodies ago, and the
 *                      ones after it; 1 is the last body of a `data` token before this one (see content.ts)
 */
export const TOKEN_DATA = 1;
export const TOKEN_ZERO = 2;
export const TOKEN_BLANK = 3;
export const TOKEN_SEEK = 4;
export const TOKEN_SKIP = 5;
export const TOKEN_NAME = 6;
export const TOKEN_LITERAL = 7;
export const TOKEN_REFERENCE = 8;
export const TOKEN_REPEAT = 9;

export type RunToken = typeof TOKEN_DATA | typeof TOKEN_ZERO | typeof TOKEN_BLANK;
export type EntryToken = typeof TOKEN_REFERENCE | typeof TOKEN_REPEAT;

/** Most bytes of one varint: 8 x 7 = 56 bits, of which values use up to 53. */
export const VARINT_MAX_BYTES = 8;
/** A token with everything in it but literal bytes: id, varints, and a block name of up to 255 bytes. */
const TOKEN_MAX_BYTES = 1 + 2 * VARINT_MAX_BYTES + 256;

/** Reads the tokens of a frame; `bad` makes the error that a malformed one is answered with. */
export class TokenReader {
  readonly #frame: Buffer;
  readonly #end: number;
  readonly #bad: (detail: string) => Error;
  #pos: number;

  constructor(frame: Buffer, start: number, end: number, bad: (detail: string) => Error) {
    this.#frame = frame;
    this.#pos = start;
    this.#end = end;
    this.#bad = bad;
  }

  /** The next token, or -1 where they end. */
  token(): number {
    return this.#pos < this.#end ? (this.#frame[this.#pos++] as number) : -1;
  }

  number(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < VARINT_MAX_BYTES; i++) {
      if (this.#pos >= this.#end) throw this.#bad('tokens end inside one');
      const byte = this.#frame[this.#pos++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
    throw this.#bad('number too long');
  }

  /** Skips `length` bytes that belong to a token; returns where they begin. */
  bytes(length: number): number {
    if (length > this.#end - this.#pos) throw this.#bad('tokens end inside one');
    this.#pos += length;
    return this.#pos - length;
  }
}

/** Builds the tokens of one frame after another. */
export class TokenWriter {
  #buf: Buffer = Buffer.allocUnsafeSlow(4096);
  #length = 0;
  #nextPage = 0;
  #run = 0;
  #runCount = 0;
  /** Of a run of entries: the first one, and the one that would continue it. A repeat counts up to 0, the next body. */
  #firstEntry = 0;
  #nextEntry = 0;

  /** One page record. `nameStart` is where the block's name stands in `buf` if the record carries one, else -1. */
  page(token: RunToken, page: number, buf: Buffer, nameStart: number, nameEnd: number): void {
    if (token !== this.#run || page !== this.#nextPage || nameStart >= 0)
      this.#startRun(token, page, buf, nameStart, nameEnd);
    this.#runCount++;
    this.#nextPage = page + 1;
  }

  /** As `page`, for a body that is named: by its number (reference), or by how far back it is (repeat). */
  entry(
    token: EntryToken,
    value: number,
    page: number,
    buf: Buffer,
    nameStart: number,
    nameEnd: number,
  ): void {
    const entry = token === TOKEN_REPEAT ? -value : value;
    if (token !== this.#run || page !== this.#nextPage || nameStart >= 0 || entry !== this.#nextEntry) {
      this.#startRun(token, page, buf, nameStart, nameEnd);
      this.#firstEntry = entry;
    }
    this.#nextEntry = entry + 1;
    this.#runCount++;
    this.#nextPage = page + 1;
  }

  literal(buf: Buffer, start: number, end: number): void {
    this.#closeRun();
    this.#bytes(TOKEN_LITERAL, buf, start, end);
  }

  /** Ends the frame's tokens; they are valid until the next call of another method. */
  finish(): Buffer {
    this.#closeRun();
    const tokens = this.#buf.subarray(0, this.#length);
    this.#length = 0;
    this.#nextPage = 0;
    return tokens;
  }

  #startRun(token: number, page: number, buf: Buffer, nameStart: number, nameEnd: number): void {
    this.#closeRun();
    if (nameStart >= 0) this.#bytes(TOKEN_NAME, buf, nameStart, nameEnd);
    if (page > this.#nextPage) this.#number(TOKEN_SKIP, page - this.#nextPage);
    else if (page < this.#nextPage) this.#number(TOKEN_SEEK, page);
    this.#run = token;
  }

  #closeRun(): void {
    if (this.#runCount > 0) {
      this.#number(this.#run, this.#runCount);
      if (this.#run === TOKEN_REFERENCE) this.#varint(this.#firstEntry);
      else if (this.#run === TOKEN_REPEAT) this.#varint(-this.#firstEntry);
    }
    this.#run = 0;
    this.#runCount = 0;
  }

  #number(token: number, value: number): void {
    this.#reserve(TOKEN_MAX_BYTES);
    this.#buf[this.#length++] = token;
    this.#varint(value);
  }

  /** `#number` has reserved room for one more. */
  #varint(value: number): void {
    let rest = value;
    while (rest >= 0x80) {
      this.#buf[this.#length++] = (rest % 0x80) | 0x80;
      rest = Math.floor(rest / 0x80);
    }
    this.#buf[this.#length++] = rest;
  }

  #bytes(token: number, buf: Buffer, start: number, end: number): void {
    this.#number(token, end - start);
    this.#reserve(end - start);
    buf.copy(this.#buf, this.#length, start, end);
    this.#length += end - start;
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buf.length) return;
    const grown = Buffer.allocUnsafeSlow(2 * (this.#length + bytes));
    this.#buf.copy(grown, 0, 0, this.#length);
    this.#buf = grown;
  }
}
