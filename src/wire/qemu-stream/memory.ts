/** Decoding of memory frames: tokens and bodies back to RAM records. Everything in a frame is checked before use. */
import { CODEC_RLE, CODEC_ZSTD, zstdUnpack } from '../codec.ts';
import { rleDecode } from '../rle.ts';
import { PAGE_BYTES, PAGE_NUMBER_LIMIT, RAM_CONTINUE, RAM_PAGE, RAM_ZERO } from './constants.ts';
import { fail } from './errors.ts';
import { type FrameHeader, MEMORY_HEADER_BYTES } from './frame.ts';
import {
  TOKEN_BLANK,
  TOKEN_DATA,
  TOKEN_LITERAL,
  TOKEN_NAME,
  TOKEN_SEEK,
  TOKEN_SKIP,
  TOKEN_ZERO,
  VARINT_MAX_BYTES,
} from './tokens.ts';

/** @throws STREAM_FRAME_CORRUPT, CODEC_CORRUPT */
export function decodeMemory(frame: Buffer, header: FrameHeader): Buffer {
  return new MemoryDecode(frame, header).run();
}

function corrupt(detail: string): Error {
  return fail('STREAM_FRAME_CORRUPT', detail);
}

class MemoryDecode {
  readonly #frame: Buffer;
  readonly #rle: boolean;
  readonly #out: Buffer;
  readonly #bodies: Buffer;
  readonly #tokensEnd: number;
  #pos = MEMORY_HEADER_BYTES;
  #bodyAt = 0;
  #outAt = 0;
  #page = 0;
  #nameStart = 0;
  #nameEnd = -1;

  constructor(frame: Buffer, header: FrameHeader) {
    if (frame.length < MEMORY_HEADER_BYTES) throw corrupt('shorter than its header');
    const tokensLength = frame.readUInt32LE(12);
    const bodiesLength = frame.readUInt32LE(16);
    this.#tokensEnd = MEMORY_HEADER_BYTES + tokensLength;
    if (this.#tokensEnd > frame.length) throw corrupt('tokens longer than the frame');
    if (bodiesLength > header.rawBytes) throw corrupt('bodies longer than what they decode to');
    const packed = frame.subarray(this.#tokensEnd);
    if (header.codec !== CODEC_ZSTD && packed.length !== bodiesLength) throw corrupt('length of the bodies');
    this.#frame = frame;
    this.#rle = header.codec === CODEC_RLE;
    this.#bodies = header.codec === CODEC_ZSTD ? zstdUnpack(packed, bodiesLength) : packed;
    this.#out = Buffer.allocUnsafeSlow(header.rawBytes);
  }

  run(): Buffer {
    while (this.#pos < this.#tokensEnd) this.#token();
    if (this.#outAt !== this.#out.length) throw corrupt('tokens make less than was announced');
    if (this.#bodyAt !== this.#bodies.length || this.#nameEnd >= 0) throw corrupt('something left over');
    return this.#out;
  }

  #token(): void {
    const token = this.#frame[this.#pos++] as number;
    const value = this.#varint();
    switch (token) {
      case TOKEN_DATA:
      case TOKEN_BLANK:
        this.#records(value, RAM_PAGE, PAGE_BYTES, token === TOKEN_BLANK);
        break;
      case TOKEN_ZERO:
        this.#records(value, RAM_ZERO, 1, true);
        break;
      case TOKEN_SEEK:
        this.#page = value;
        break;
      case TOKEN_SKIP:
        this.#page += value;
        break;
      case TOKEN_NAME:
        this.#name(value);
        break;
      case TOKEN_LITERAL:
        this.#literal(value);
        break;
      default:
        throw corrupt(`token ${token}`);
    }
  }

  #varint(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < VARINT_MAX_BYTES; i++) {
      if (this.#pos >= this.#tokensEnd) throw corrupt('tokens end inside one');
      const byte = this.#frame[this.#pos++] as number;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 0x80;
    }
    throw corrupt('number too long');
  }

  #name(length: number): void {
    if (length > 255 || length > this.#tokensEnd - this.#pos || this.#nameEnd >= 0)
      throw corrupt('block name');
    this.#nameStart = this.#pos;
    this.#pos += length;
    this.#nameEnd = this.#pos;
  }

  #literal(length: number): void {
    if (length > this.#tokensEnd - this.#pos || length > this.#out.length - this.#outAt)
      throw corrupt('literal too long');
    this.#frame.copy(this.#out, this.#outAt, this.#pos, this.#pos + length);
    this.#pos += length;
    this.#outAt += length;
  }

  #records(count: number, flag: number, bodyBytes: number, zeros: boolean): void {
    const named = this.#nameEnd >= 0;
    const nameBytes = named ? 1 + this.#nameEnd - this.#nameStart : 0;
    if (count === 0 || count * (8 + bodyBytes) + nameBytes > this.#out.length - this.#outAt)
      throw corrupt('more records than announced');
    // Adding to a huge page number would lose bits: it is checked before anything is added to it.
    if (this.#page > PAGE_NUMBER_LIMIT - count) throw corrupt('page number');
    const out = this.#out;
    let flags = named ? flag : flag | RAM_CONTINUE;
    for (let i = 0; i < count; i++) {
      this.#header(flags);
      if (i === 0 && named) this.#putName();
      flags = flag | RAM_CONTINUE;
      if (!zeros) this.#body();
      else if (bodyBytes === 1) out[this.#outAt++] = 0;
      else {
        out.fill(0, this.#outAt, this.#outAt + bodyBytes);
        this.#outAt += bodyBytes;
      }
      this.#page++;
    }
  }

  #header(flags: number): void {
    const out = this.#out;
    const at = this.#outAt;
    const high = Math.floor(this.#page / 0x100000);
    const low = (this.#page % 0x100000) * PAGE_BYTES + flags;
    out[at] = high >>> 24;
    out[at + 1] = high >>> 16;
    out[at + 2] = high >>> 8;
    out[at + 3] = high;
    out[at + 4] = low >>> 24;
    out[at + 5] = low >>> 16;
    out[at + 6] = low >>> 8;
    out[at + 7] = low;
    this.#outAt = at + 8;
  }

  #putName(): void {
    this.#out[this.#outAt] = this.#nameEnd - this.#nameStart;
    this.#frame.copy(this.#out, this.#outAt + 1, this.#nameStart, this.#nameEnd);
    this.#outAt += 1 + this.#nameEnd - this.#nameStart;
    this.#nameEnd = -1;
  }

  #body(): void {
    const bodies = this.#bodies;
    const at = this.#bodyAt;
    let start = at;
    let length = PAGE_BYTES;
    if (this.#rle) {
      if (at + 2 > bodies.length) throw corrupt('bodies end too early');
      start += 2;
      length = (bodies[at] as number) | ((bodies[at + 1] as number) << 8);
    }
    if (start + length > bodies.length) throw corrupt('bodies end too early');
    if (length === PAGE_BYTES) bodies.copy(this.#out, this.#outAt, start, start + length);
    else if (!rleDecode(bodies, this.#out, this.#outAt, PAGE_BYTES, start, start + length))
      throw corrupt('a run-length encoded page');
    this.#bodyAt = start + length;
    this.#outAt += PAGE_BYTES;
  }
}
