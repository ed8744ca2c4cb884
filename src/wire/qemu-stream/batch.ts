/** Builders of one frame at a time: MemoryBatch for RAM records, DeviceBatch for everything else. */
import { crc32 } from 'node:zlib';
import { CODEC_RAW, CODEC_RLE, CODEC_ZSTD, type CodecId, encodeBlock, zstdPack } from '../codec.ts';
import { rleEncode } from '../rle.ts';
import { PAGE_BYTES } from './constants.ts';
import { FRAME_HEADER_BYTES, MEMORY_HEADER_BYTES, writeFrameHeader } from './frame.ts';
import { TOKEN_BLANK, TOKEN_DATA, TOKEN_ZERO, TokenWriter } from './tokens.ts';

/** What goes to the link: one message. */
export interface EncodedFrame {
  readonly kind: 'memory' | 'device';
  /** The frame, see frame.ts. It belongs to the receiver. */
  readonly payload: Buffer;
  /** Stream bytes that it decodes to. */
  readonly rawBytes: number;
  /** Pages in it that are all zero, and others. */
  readonly zeroPages: number;
  readonly dataPages: number;
}

const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

/** Checksum over consecutive ranges: neighbours in one buffer cost one call. */
class RunningCrc {
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

  /** Takes in what is pending, so that the buffer may be reused. */
  settle(): void {
    if (this.#buf === undefined) return;
    this.#value = crc32(this.#buf.subarray(this.#start, this.#end), this.#value);
    this.#buf = undefined;
  }

  take(): number {
    this.settle();
    const value = this.#value;
    this.#value = 0;
    return value;
  }
}

export interface MemoryBatchOptions {
  readonly codec: CodecId;
  readonly zstdLevel: number;
  /** Stream bytes after which `full` is true. */
  readonly frameRawBytes: number;
}

export class MemoryBatch {
  readonly #codec: CodecId;
  readonly #zstdLevel: number;
  readonly #limitBytes: number;
  readonly #tokens = new TokenWriter();
  readonly #crc = new RunningCrc();
  readonly #bodies: Buffer;
  #bodiesLength = 0;
  rawBytes = 0;
  #zeroPages = 0;
  #dataPages = 0;

  constructor(options: MemoryBatchOptions) {
    this.#codec = options.codec;
    this.#zstdLevel = options.zstdLevel;
    this.#limitBytes = options.frameRawBytes;
    // The last record may overshoot; an RLE body has 2 bytes more than its page, of which a record header makes up 8.
    this.#bodies = Buffer.allocUnsafeSlow(options.frameRawBytes + 2 * PAGE_BYTES);
  }

  get full(): boolean {
    return this.rawBytes >= this.#limitBytes;
  }

  /** Whether the page was all zero. */
  dataPage(buf: Buffer, start: number, end: number, page: number, nameBytes: number): boolean {
    this.#crc.add(buf, start, end);
    this.rawBytes += end - start;
    const body = end - PAGE_BYTES;
    const blank = isBlank(buf, body);
    if (blank) this.#zeroPages++;
    else {
      this.#dataPages++;
      this.#addBody(buf, body, end);
    }
    const nameStart = nameBytes === 0 ? -1 : start + 9;
    this.#tokens.page(blank ? TOKEN_BLANK : TOKEN_DATA, page, buf, nameStart, start + 8 + nameBytes);
    return blank;
  }

  zeroPage(buf: Buffer, start: number, end: number, page: number, nameBytes: number): void {
    this.#crc.add(buf, start, end);
    this.rawBytes += end - start;
    this.#zeroPages++;
    this.#tokens.page(TOKEN_ZERO, page, buf, nameBytes === 0 ? -1 : start + 9, start + 8 + nameBytes);
  }

  literal(buf: Buffer, start: number, end: number, dataPages = 0): void {
    this.#crc.add(buf, start, end);
    this.rawBytes += end - start;
    this.#dataPages += dataPages;
    this.#tokens.literal(buf, start, end);
  }

  settle(): void {
    this.#crc.settle();
  }

  /** The frame, or undefined if nothing was added since the last one. */
  take(): EncodedFrame | undefined {
    if (this.rawBytes === 0) return undefined;
    const tokens = this.#tokens.finish();
    const { codec, bodies } = this.#packBodies();
    const payload = Buffer.allocUnsafeSlow(MEMORY_HEADER_BYTES + tokens.length + bodies.length);
    writeFrameHeader(payload, { kind: 'memory', codec, rawBytes: this.rawBytes, crc32: this.#crc.take() });
    payload.writeUInt32LE(tokens.length, FRAME_HEADER_BYTES);
    payload.writeUInt32LE(this.#bodiesLength, FRAME_HEADER_BYTES + 4);
    tokens.copy(payload, MEMORY_HEADER_BYTES);
    bodies.copy(payload, MEMORY_HEADER_BYTES + tokens.length);
    const frame: EncodedFrame = {
      kind: 'memory',
      payload,
      rawBytes: this.rawBytes,
      zeroPages: this.#zeroPages,
      dataPages: this.#dataPages,
    };
    this.rawBytes = 0;
    this.#bodiesLength = 0;
    this.#zeroPages = 0;
    this.#dataPages = 0;
    return frame;
  }

  #addBody(buf: Buffer, start: number, end: number): void {
    const bodies = this.#bodies;
    if (this.#codec !== CODEC_RLE) {
      buf.copy(bodies, this.#bodiesLength, start, end);
      this.#bodiesLength += PAGE_BYTES;
      return;
    }
    const at = this.#bodiesLength + 2;
    let length = rleEncode(buf, bodies, at, start, end);
    if (length < 0) {
      length = PAGE_BYTES;
      buf.copy(bodies, at, start, end);
    }
    bodies[at - 2] = length & 0xff;
    bodies[at - 1] = length >>> 8;
    this.#bodiesLength = at + length;
  }

  #packBodies(): { codec: CodecId; bodies: Buffer } {
    const bodies = this.#bodies.subarray(0, this.#bodiesLength);
    if (this.#codec === CODEC_ZSTD && bodies.length > 0) {
      const packed = zstdPack(bodies, this.#zstdLevel);
      if (packed.length < bodies.length) return { codec: CODEC_ZSTD, bodies: packed };
    }
    return { codec: this.#codec === CODEC_RLE ? CODEC_RLE : CODEC_RAW, bodies };
  }
}

/** A few samples reject nearly every page that has content. */
function isBlank(buf: Buffer, start: number): boolean {
  if ((buf[start] as number) | (buf[start + 1] as number) | (buf[start + 2047] as number)) return false;
  if ((buf[start + 4095] as number) | (buf[start + 1024] as number) | (buf[start + 8] as number))
    return false;
  return buf.compare(ZERO_PAGE, 0, PAGE_BYTES, start, start + PAGE_BYTES) === 0;
}

/** Device state is small and mostly zeros, and the switch waits for it: always the fastest zstd. */
const DEVICE_ZSTD_LEVEL = 1;

export class DeviceBatch {
  #pieces: Buffer[] = [];
  #tail = Buffer.alloc(0);
  #tailLength = 0;
  rawBytes = 0;

  /** Copies a piece of stream bytes. Small pieces share buffers. */
  add(buf: Buffer, start: number, end: number): void {
    let pos = start;
    while (pos < end) {
      if (this.#tailLength === this.#tail.length) {
        this.#closeTail();
        // Doubling keeps the number of pieces small without trusting an announced length.
        this.#tail = Buffer.allocUnsafeSlow(Math.min(4 * 1024 * 1024, Math.max(4096, this.rawBytes)));
      }
      const part = Math.min(end - pos, this.#tail.length - this.#tailLength);
      buf.copy(this.#tail, this.#tailLength, pos, pos + part);
      this.#tailLength += part;
      this.rawBytes += part;
      pos += part;
    }
  }

  #closeTail(): void {
    if (this.#tailLength > 0) this.#pieces.push(this.#tail.subarray(0, this.#tailLength));
    this.#tail = Buffer.alloc(0);
    this.#tailLength = 0;
  }

  /** The frame, or undefined if nothing was added since the last one. */
  take(): EncodedFrame | undefined {
    if (this.rawBytes === 0) return undefined;
    this.#closeTail();
    const [first] = this.#pieces;
    const raw = this.#pieces.length === 1 && first ? first : Buffer.concat(this.#pieces, this.rawBytes);
    this.#pieces = [];
    this.rawBytes = 0;
    const { codec, payload: content } = encodeBlock(CODEC_ZSTD, raw, { zstdLevel: DEVICE_ZSTD_LEVEL });
    const payload = Buffer.allocUnsafeSlow(FRAME_HEADER_BYTES + content.length);
    writeFrameHeader(payload, { kind: 'device', codec, rawBytes: raw.length, crc32: crc32(raw) });
    content.copy(payload, FRAME_HEADER_BYTES);
    return { kind: 'device', payload, rawBytes: raw.length, zeroPages: 0, dataPages: 0 };
  }
}
