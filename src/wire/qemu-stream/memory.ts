/** Decoding of memory frames: tokens and bodies back to RAM records. Everything in a frame is checked before use. */
import { crc32 } from 'node:zlib';
import { CODEC_RLE, CODEC_ZSTD, zstdUnpack } from '../codec.ts';
import { rleDecode } from '../rle.ts';
import type { RepeatWindow, ResidueRule } from './content.ts';
import { RunningCrc } from './crc.ts';
import { ZERO_PAGE } from './held.ts';
import type { Holding } from './holding.ts';
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
  /** The frame's references, in order of use. */
  readonly referenced: Referenced | undefined;
  /** Room for any frame, and HOLDING_EXTRA_BYTES; without it each gets its own. */
  readonly output?: Buffer | undefined;
  /** Pages may be held back. */
  readonly holding?: Holding | undefined;
}

/** The pages that a frame refers to: all their bodies, or their checksums and the bodies of those that are not held back. */
export type Referenced =
  | Buffer
  | {
      /** CRC-32 of each body. */
      readonly crcs: Uint32Array;
      /** By position. */
      readonly bodies: ReadonlyMap<number, Buffer>;
    };

/** A decoder that holds back may have to name a block where the source's QEMU did not: once after each that it put in. */
export const HOLDING_EXTRA_BYTES = 256;
const BLANK_CRC = crc32(Buffer.alloc(PAGE_BYTES));
/** Headers of records that are held back, for the checksum. */
const SCRATCH_BYTES = 32 * 1024;
const scratch = Buffer.allocUnsafeSlow(SCRATCH_BYTES);

/**
 * What QEMU is to be given of the frame; `crc` is that of all that the frame stands for.
 * @throws STREAM_FRAME_CORRUPT, STREAM_CONTENT, CODEC_CORRUPT
 */
export function decodeMemory(
  frame: Buffer,
  header: FrameHeader,
  context: DecodeContext,
): { out: Buffer; crc: number } {
  return new MemoryDecode(frame, header, context).run();
}

/**
 * Positions of a frame's references that are not to be held back: QEMU has been given these pages before, or holding
 * back is over.
 * @throws STREAM_FRAME_CORRUPT
 */
export function unheldReferences(frame: Buffer, holding: Holding): number[] {
  const reader = new TokenReader(frame, MEMORY_HEADER_BYTES, tokensEnd(frame), corrupt);
  const positions: number[] = [];
  let position = 0;
  let page = 0;
  let block = holding.streamBlock;
  const { held } = holding;
  /** Pages that the frame itself gives QEMU before it refers to them. */
  const given = new Set<number>();
  for (let token = reader.token(); token >= 0; token = reader.token()) {
    const value = reader.number();
    if (token === TOKEN_LITERAL) reader.bytes(value);
    else if (token === TOKEN_NAME) block = nameAt(frame, reader.bytes(value), value);
    else if (token === TOKEN_SEEK) page = value;
    else if (token === TOKEN_SKIP) page += value;
    else if (token === TOKEN_REFERENCE) {
      const first = reader.number();
      for (let i = 0; i < value; i++, position++)
        if (given.has(page + i) || !held.holds(block, page + i, first + i)) positions.push(position);
      page += value;
    } else {
      if (token === TOKEN_REPEAT) reader.number();
      if (block === held.block && (token === TOKEN_DATA || token === TOKEN_REPEAT))
        for (let i = 0; i < value; i++) given.add(page + i);
      page += value;
    }
  }
  return positions;
}

function nameAt(frame: Buffer, start: number, length: number): string {
  return frame.toString('latin1', start, start + length);
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
  readonly #referenced: Referenced | undefined;
  readonly #residue: ResidueRule | undefined;
  readonly #holding: Holding | undefined;
  readonly #crc = new RunningCrc();
  /** Bytes of the stream that the tokens so far stand for. */
  #rawAt = 0;
  readonly #rawBytes: number;
  readonly #references: number;
  #scratchAt = 0;
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
    if (references !== countOf(context.referenced)) throw fail('STREAM_CONTENT', `${references} pages`);
    this.#references = references;
    this.#rawBytes = header.rawBytes;
    this.#holding = context.holding;
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
    this.#out = context.output ?? Buffer.allocUnsafeSlow(header.rawBytes + HOLDING_EXTRA_BYTES);
  }

  run(): { out: Buffer; crc: number } {
    for (let token = this.#reader.token(); token >= 0; token = this.#reader.token()) this.#token(token);
    if (this.#rawAt !== this.#rawBytes) throw corrupt('tokens make less than was announced');
    if (this.#bodyAt !== this.#bodies.length || this.#nameEnd >= 0) throw corrupt('something left over');
    if (this.#referencedAt !== this.#references) throw corrupt('number of references');
    return { out: this.#out.subarray(0, this.#outAt), crc: this.#crc.take() };
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
    if (length > this.#rawBytes - this.#rawAt) throw corrupt('literal too long');
    this.#frame.copy(this.#out, this.#outAt, start, start + length);
    this.#crc.add(this.#out, this.#outAt, this.#outAt + length);
    this.#holding?.push(this.#frame.subarray(start, start + length));
    this.#outAt += length;
    this.#rawAt += length;
  }

  #records(token: number, count: number, flag: number, bodyBytes: number): void {
    const named = this.#nameEnd >= 0;
    const nameBytes = named ? 1 + this.#nameEnd - this.#nameStart : 0;
    const rawBytes = count * (8 + bodyBytes) + nameBytes;
    if (count === 0 || rawBytes > this.#rawBytes - this.#rawAt) throw corrupt('more records than announced');
    // Adding to a huge page number would lose bits: it is checked before anything is added to it.
    if (this.#page > PAGE_NUMBER_LIMIT - count) throw corrupt('page number');
    this.#rawAt += rawBytes;
    const holding = this.#holding;
    if (holding && named)
      holding.streamBlock = nameAt(this.#frame, this.#nameStart, this.#nameEnd - this.#nameStart);
    let flags = named ? flag : flag | RAM_CONTINUE;
    for (let i = 0; i < count; i++) {
      if (holding && this.#held(holding, token, flags, bodyBytes)) {
        // QEMU is not given it now
      } else {
        this.#recordHeader(holding, flags);
        if (token === TOKEN_DATA) this.#body();
        else if (token === TOKEN_REFERENCE) this.#reference();
        else if (token === TOKEN_REPEAT) this.#repeat();
        else this.#out.fill(0, this.#outAt, this.#outAt + bodyBytes);
        this.#crc.add(this.#out, this.#outAt, this.#outAt + bodyBytes);
        this.#outAt += bodyBytes;
      }
      flags = flag | RAM_CONTINUE;
      this.#page++;
    }
  }

  /** Takes the page to those that are held back; false where QEMU has to be given it. */
  #held(holding: Holding, token: number, flags: number, bodyBytes: number): boolean {
    const zero = token === TOKEN_ZERO || token === TOKEN_BLANK;
    const { held, streamBlock } = holding;
    if (!zero && (token !== TOKEN_REFERENCE || this.#bodyOfReference(this.#referencedAt))) {
      held.given(streamBlock, this.#page);
      return false;
    }
    const number = zero ? ZERO_PAGE : this.#number;
    if (!held.holds(streamBlock, this.#page, number)) {
      held.given(streamBlock, this.#page);
      return false;
    }
    held.hold(streamBlock, this.#page, number);
    this.#crcOfHeader(flags);
    if (zero) {
      if (bodyBytes === 1) this.#crcOfZero();
      else this.#crc.addPage(BLANK_CRC);
      return true;
    }
    const referenced = this.#referenced;
    if (!referenced || !('crcs' in referenced)) throw corrupt('number of references');
    this.#crc.addPage(referenced.crcs[this.#referencedAt] ?? 0);
    this.#referencedAt++;
    this.#number++;
    if (this.#residue && number >= this.#residue.firstNumber) this.#residue.sink?.refer?.(number);
    return true;
  }

  /** The record's header as QEMU is given it: it names the block, too, where QEMU's last one is another. */
  #recordHeader(holding: Holding | undefined, flags: number): void {
    const start = this.#outAt;
    if (holding && flags & RAM_CONTINUE && holding.qemuBlock !== holding.streamBlock) {
      this.#crcOfHeader(flags);
      this.#header(flags & ~RAM_CONTINUE);
      const { streamBlock } = holding;
      this.#out[this.#outAt] = streamBlock.length;
      this.#outAt += 1 + this.#out.write(streamBlock, this.#outAt + 1, 'latin1');
    } else {
      this.#header(flags);
      if (!(flags & RAM_CONTINUE)) this.#putName();
      this.#crc.add(this.#out, start, this.#outAt);
    }
    if (holding) holding.qemuBlock = holding.streamBlock;
  }

  /** Checksum of a record's header that is not given to QEMU as it stands in the stream. */
  #crcOfHeader(flags: number): void {
    const nameBytes = flags & RAM_CONTINUE ? 0 : 1 + this.#nameEnd - this.#nameStart;
    const at = this.#scratch(8 + nameBytes);
    this.#putHeader(scratch, at, flags);
    if (nameBytes > 0) {
      scratch[at + 8] = nameBytes - 1;
      this.#frame.copy(scratch, at + 9, this.#nameStart, this.#nameEnd);
      this.#nameEnd = -1;
    }
    this.#crc.add(scratch, at, at + 8 + nameBytes);
  }

  #crcOfZero(): void {
    const at = this.#scratch(1);
    scratch[at] = 0;
    this.#crc.add(scratch, at, at + 1);
  }

  #scratch(bytes: number): number {
    if (this.#scratchAt + bytes > SCRATCH_BYTES) {
      this.#crc.settle();
      this.#scratchAt = 0;
    }
    const at = this.#scratchAt;
    this.#scratchAt += bytes;
    return at;
  }

  #header(flags: number): void {
    this.#putHeader(this.#out, this.#outAt, flags);
    this.#outAt += 8;
  }

  #putHeader(out: Buffer, at: number, flags: number): void {
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

  #bodyOfReference(position: number): boolean {
    const referenced = this.#referenced;
    return referenced !== undefined && (!('crcs' in referenced) || referenced.bodies.has(position));
  }

  #reference(): void {
    const position = this.#referencedAt++;
    const referenced = this.#referenced;
    if (!referenced || position >= this.#references) throw corrupt('number of references');
    if (!('crcs' in referenced)) {
      const at = position * PAGE_BYTES;
      referenced.copy(this.#out, this.#outAt, at, at + PAGE_BYTES);
    } else {
      const body = referenced.bodies.get(position);
      if (!body) throw fail('STREAM_CONTENT', `page ${position} of a frame`);
      body.copy(this.#out, this.#outAt, 0, PAGE_BYTES);
    }
    const number = this.#number++;
    if (this.#residue && number >= this.#residue.firstNumber) this.#residue.sink?.add(this.#out, this.#outAt);
  }

  #repeat(): void {
    if (!this.#window.copy(this.#back--, this.#out, this.#outAt)) throw corrupt('repeats what is not there');
  }
}

function countOf(referenced: Referenced | undefined): number {
  if (!referenced) return 0;
  return 'crcs' in referenced ? referenced.crcs.length : referenced.length / PAGE_BYTES;
}
