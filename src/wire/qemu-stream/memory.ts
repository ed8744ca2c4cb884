/** Decoding of memory frames: tokens and bodies back to RAM records. Everything in a frame is checked before use. */
import { CODEC_RLE, CODEC_ZSTD, zstdUnpack } from '../codec.ts';
import { rleDecode } from '../rle.ts';
import type { RepeatWindow, ResidueRule } from './content.ts';
import { PAGE_BYTES, PAGE_NUMBER_LIMIT, RAM_CONTINUE, RAM_PAGE, RAM_ZERO } from './constants.ts';
import { fail } from './errors.ts';
import { type FrameHeader, MEMORY_HEADER_BYTES } from './frame.ts';
import {
  TOKEN_BLANK,
  TOKEN_DATA,
  TOKEN_LITERAL,
  TOKEN_NAME,
  TOKEN_REFERENCE,
  TOKEN_REPEAT,
  TOKEN_SEEK,
  TOKEN_SKIP,
  TOKEN_ZERO,
  TokenReader,
} from './tokens.ts';

/** What a frame may need besides its own bytes. */
export interface DecodeContext {
  readonly window: RepeatWindow;
  readonly residue?: ResidueRule | undefined;
  /** The bodies of the frame's references, in order of use. */
  readonly referenced: Buffer | undefined;
  /** Room for any frame; without it each gets its own. */
  readonly output?: Buffer | undefined;
}

/** @throws STREAM_FRAME_CORRUPT, STREAM_CONTENT, CODEC_CORRUPT */
export function decodeMemory(frame: Buffer, header: FrameHeader, context: DecodeContext): Buffer {
  return new MemoryDecode(frame, header, context).run();
}

/** Where the frame's tokens end. */
function tokensEnd(frame: Buffer): number {
  if (frame.length < MEMORY_HEADER_BYTES) throw corrupt('shorter than its header');
  const end = MEMORY_HEADER_BYTES + frame.readUInt32LE(12);
  if (end > frame.length) throw corrupt('tokens longer than the frame');
  return end;
}

/** Numbers of the pages that a frame refers to, in order of use. @throws STREAM_FRAME_CORRUPT */
export function referencesOf(frame: Buffer, header: FrameHeader): Float64Array {
  const end = tokensEnd(frame);
  const count = frame.readUInt32LE(20);
  if (count * PAGE_BYTES > header.rawBytes) throw corrupt('more references than it decodes to');
  const references = new Float64Array(count);
  if (count === 0) return references;
  const reader = new TokenReader(frame, MEMORY_HEADER_BYTES, end, corrupt);
  let found = 0;
  for (let token = reader.token(); token >= 0; token = reader.token()) {
    const value = reader.number();
    if (token === TOKEN_NAME || token === TOKEN_LITERAL) reader.bytes(value);
    if (token !== TOKEN_REFERENCE && token !== TOKEN_REPEAT) continue;
    const first = reader.number();
    if (token === TOKEN_REPEAT) continue;
    if (value > count - found) throw corrupt('number of references');
    for (let i = 0; i < value; i++) references[found++] = first + i;
  }
  if (found !== count) throw corrupt('number of references');
  return references;
}

function corrupt(detail: string): Error {
  return fail('STREAM_FRAME_CORRUPT', detail);
}

class MemoryDecode {
  readonly #frame: Buffer;
  readonly #rle: boolean;
  readonly #out: Buffer;
  readonly #bodies: Buffer;
  readonly #reader: TokenReader;
  readonly #window: RepeatWindow;
  readonly #referenced: Buffer | undefined;
  readonly #residue: ResidueRule | undefined;
  #bodyAt = 0;
  #referencedAt = 0;
  #outAt = 0;
  #page = 0;
  /** Of the run of repeats at hand: how far back the next body is. */
  #back = 0;
  /** Of the run of references at hand: the next number. */
  #number = 0;
  #nameStart = 0;
  #nameEnd = -1;

  constructor(frame: Buffer, header: FrameHeader, context: DecodeContext) {
    const end = tokensEnd(frame);
    const bodiesLength = frame.readUInt32LE(16);
    const references = frame.readUInt32LE(20);
    if (references * PAGE_BYTES > header.rawBytes) throw corrupt('more references than it decodes to');
    if (references * PAGE_BYTES !== (context.referenced?.length ?? 0))
      throw fail('STREAM_CONTENT', `${references} pages`);
    this.#window = context.window;
    this.#referenced = context.referenced;
    this.#residue = context.residue;
    this.#reader = new TokenReader(frame, MEMORY_HEADER_BYTES, end, corrupt);
    if (bodiesLength > header.rawBytes) throw corrupt('bodies longer than what they decode to');
    const packed = frame.subarray(end);
    if (header.codec !== CODEC_ZSTD && packed.length !== bodiesLength) throw corrupt('length of the bodies');
    this.#frame = frame;
    this.#rle = header.codec === CODEC_RLE;
    this.#bodies = header.codec === CODEC_ZSTD ? zstdUnpack(packed, bodiesLength) : packed;
    this.#out = context.output?.subarray(0, header.rawBytes) ?? Buffer.allocUnsafeSlow(header.rawBytes);
  }

  run(): Buffer {
    for (let token = this.#reader.token(); token >= 0; token = this.#reader.token()) this.#token(token);
    if (this.#outAt !== this.#out.length) throw corrupt('tokens make less than was announced');
    if (this.#bodyAt !== this.#bodies.length || this.#nameEnd >= 0) throw corrupt('something left over');
    if (this.#referencedAt !== (this.#referenced?.length ?? 0)) throw corrupt('number of references');
    return this.#out;
  }

  #token(token: number): void {
    const value = this.#reader.number();
    switch (token) {
      case TOKEN_DATA:
      case TOKEN_BLANK:
      case TOKEN_REFERENCE:
        if (token === TOKEN_REFERENCE) this.#number = this.#reader.number();
        this.#records(token, value, RAM_PAGE, PAGE_BYTES);
        break;
      case TOKEN_REPEAT:
        this.#back = this.#reader.number();
        this.#records(token, value, RAM_PAGE, PAGE_BYTES);
        break;
      case TOKEN_ZERO:
        this.#records(token, value, RAM_ZERO, 1);
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

  #name(length: number): void {
    if (length > 255 || this.#nameEnd >= 0) throw corrupt('block name');
    this.#nameStart = this.#reader.bytes(length);
    this.#nameEnd = this.#nameStart + length;
  }

  #literal(length: number): void {
    const start = this.#reader.bytes(length);
    if (length > this.#out.length - this.#outAt) throw corrupt('literal too long');
    this.#frame.copy(this.#out, this.#outAt, start, start + length);
    this.#outAt += length;
  }

  #records(token: number, count: number, flag: number, bodyBytes: number): void {
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
      if (token === TOKEN_DATA) this.#body();
      else if (token === TOKEN_REFERENCE) this.#reference();
      else if (token === TOKEN_REPEAT) this.#repeat();
      else out.fill(0, this.#outAt, this.#outAt + bodyBytes);
      this.#outAt += bodyBytes;
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
    this.#window.add(this.#out, this.#outAt);
    this.#residue?.sink?.add(this.#out, this.#outAt);
  }

  #reference(): void {
    const at = this.#referencedAt;
    if (!this.#referenced || at === this.#referenced.length) throw corrupt('number of references');
    this.#referenced.copy(this.#out, this.#outAt, at, at + PAGE_BYTES);
    this.#referencedAt = at + PAGE_BYTES;
    if (this.#residue && this.#number++ >= this.#residue.firstNumber)
      this.#residue.sink?.add(this.#out, this.#outAt);
  }

  #repeat(): void {
    if (!this.#window.copy(this.#back--, this.#out, this.#outAt)) throw corrupt('repeats what is not there');
  }
}
