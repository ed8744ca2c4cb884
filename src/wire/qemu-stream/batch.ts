/** Builds frames of RAM records, one at a time. */
import { crc32 } from 'node:zlib';
import { CODEC_RAW, CODEC_RLE, CODEC_ZSTD, type CodecId, zstdPack } from '../codec.ts';
import { rleEncode } from '../rle.ts';
import { FRAME_RAW_MAX_BYTES, PACK_LATER_MIN_BYTES, PAGE_BYTES } from './constants.ts';
import { type ContentLookup, type ResidueRule, SentWindow } from './content.ts';
import { RunningCrc } from './crc.ts';
import { FRAME_HEADER_BYTES, MEMORY_HEADER_BYTES, writeFrameHeader } from './frame.ts';
import { TOKEN_BLANK, TOKEN_DATA, TOKEN_REFERENCE, TOKEN_REPEAT, TOKEN_ZERO, TokenWriter } from './tokens.ts';

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
  /** Of the others: those that the far side holds, and those that were sent before. */
  readonly referencedPages: number;
  readonly repeatedPages: number;
  /** Of the references: those to residue. */
  readonly residuePages: number;
  /** The bodies of the references, in order: what the far side is sent if it cannot make them itself. */
  readonly referenced?: Buffer;
  /** To be called when these bodies are done with: their memory is used again. */
  readonly recycle?: () => void;
}

/** Packs bodies with zstd in another thread. They stay as they are until the promise has settled. */
export type PackLater = (bodies: Buffer, level: number) => Promise<Buffer>;

/** A frame is closed, its bodies are not packed. */
interface OpenFrame {
  readonly tokens: Buffer;
  readonly crc: number;
  readonly bodiesLength: number;
  readonly counts: Omit<EncodedFrame, 'payload'>;
}

/** A frame with named pages holds at most this many times the stream bytes of one without. */
const NAMED_RAW_FACTOR = 4;
const ZERO_PAGE = Buffer.alloc(PAGE_BYTES);

/** Buffers for bodies that are kept for the next frames while others are being packed. */
const SPARE_MAX = 4;

export interface MemoryBatchOptions {
  readonly codec: CodecId;
  /** Of zstd; 0 leaves bodies as they are. */
  readonly zstdLevel: number;
  /** Bodies after which `full` is true. */
  readonly frameRawBytes: number;
}

export class MemoryBatch {
  readonly #codec: CodecId;
  readonly #limitBytes: number;
  #rawLimitBytes: number;
  #content: ContentLookup | undefined;
  #sent: SentWindow | undefined;
  readonly #tokens = new TokenWriter();
  readonly #crc = new RunningCrc();
  #bodies: Buffer;
  readonly #spare: Buffer[] = [];
  #bodiesLength = 0;
  /** Of the frame at hand, too. */
  zstdLevel: number;
  rawBytes = 0;
  #zeroPages = 0;
  #dataPages = 0;
  /** Bodies of the references so far. */
  #referenced: Buffer = Buffer.alloc(0);
  readonly #spareReferenced: Buffer[] = [];
  #referencedPages = 0;
  #repeatedPages = 0;
  #residue: ResidueRule | undefined;
  #residuePages = 0;

  constructor(options: MemoryBatchOptions) {
    this.#codec = options.codec;
    this.zstdLevel = options.zstdLevel;
    this.#limitBytes = options.frameRawBytes;
    this.#rawLimitBytes = options.frameRawBytes;
    this.#bodies = this.#room();
  }

  /** Names pages instead of sending them from here on; call it before the first page. */
  useContent(content: ContentLookup | undefined, repeatPages: number, residue?: ResidueRule): void {
    this.#content = content;
    this.#residue = residue;
    this.#sent = new SentWindow(repeatPages);
    // What stands in few bytes need not make the rest travel in small, badly compressed batches.
    this.#rawLimitBytes = Math.min(FRAME_RAW_MAX_BYTES, NAMED_RAW_FACTOR * this.#limitBytes);
    this.#referenced = Buffer.allocUnsafeSlow(this.#rawLimitBytes + PAGE_BYTES);
  }

  /** No references from here on; repeats go on. */
  dropContent(): void {
    this.#content = undefined;
  }

  get full(): boolean {
    return this.rawBytes >= this.#rawLimitBytes || this.#bodiesLength >= this.#limitBytes;
  }

  /** Whether the page was all zero. */
  dataPage(buf: Buffer, start: number, end: number, page: number, nameBytes: number): boolean {
    this.rawBytes += end - start;
    const body = end - PAGE_BYTES;
    const blank = isBlank(buf, body);
    if (this.#sent && !blank) {
      this.#namedPage(this.#sent, buf, start, end, page, nameBytes);
      return false;
    }
    this.#crc.add(buf, start, end);
    if (blank) this.#zeroPages++;
    else {
      this.#dataPages++;
      this.#addBody(buf, body, end);
    }
    const nameStart = nameBytes === 0 ? -1 : start + 9;
    this.#tokens.page(blank ? TOKEN_BLANK : TOKEN_DATA, page, buf, nameStart, start + 8 + nameBytes);
    return blank;
  }

  /** A page that is looked for before it is sent. */
  #namedPage(
    sent: SentWindow,
    buf: Buffer,
    start: number,
    end: number,
    page: number,
    nameBytes: number,
  ): void {
    const body = end - PAGE_BYTES;
    const crc = crc32(buf.subarray(body, end));
    this.#crc.add(buf, start, body);
    this.#crc.addPage(crc);
    this.#dataPages++;
    const nameStart = nameBytes === 0 ? -1 : start + 9;
    const nameEnd = start + 8 + nameBytes;
    const back = sent.find(buf, body, crc);
    if (back > 0) {
      this.#repeatedPages++;
      this.#tokens.entry(TOKEN_REPEAT, back, page, buf, nameStart, nameEnd);
      return;
    }
    const number = this.#content?.find(buf, body, crc) ?? -1;
    if (number >= 0) {
      buf.copy(this.#referenced, this.#referencedPages * PAGE_BYTES, body, end);
      this.#referencedPages++;
      if (this.#residue && number >= this.#residue.firstNumber) {
        this.#residuePages++;
        this.#residue.sink?.add(buf, body);
      }
      this.#tokens.entry(TOKEN_REFERENCE, number, page, buf, nameStart, nameEnd);
      return;
    }
    sent.remember(buf, body, crc);
    this.#residue?.sink?.add(buf, body);
    this.#addBody(buf, body, end);
    this.#tokens.page(TOKEN_DATA, page, buf, nameStart, nameEnd);
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
    const bodies = this.#bodies.subarray(0, this.#bodiesLength);
    const packed = this.#packs ? zstdPack(bodies, this.zstdLevel) : undefined;
    return this.#finish(this.#close(), bodies, packed);
  }

  /** As `take`, but has the bodies packed by `later`; a frame that is hardly worth it comes at once. */
  takeLater(later: PackLater): EncodedFrame | Promise<EncodedFrame> | undefined {
    if (this.rawBytes === 0 || !this.#packs || this.#bodiesLength < PACK_LATER_MIN_BYTES) return this.take();
    const whole = this.#bodies;
    const bodies = whole.subarray(0, this.#bodiesLength);
    const packing = later(bodies, this.zstdLevel);
    this.#bodies = this.#spare.pop() ?? this.#room();
    const open = this.#close();
    return packing.then((packed) => {
      const frame = this.#finish(open, bodies, packed);
      if (this.#spare.length < SPARE_MAX) this.#spare.push(whole);
      return frame;
    });
  }

  get #packs(): boolean {
    return this.#codec === CODEC_ZSTD && this.zstdLevel > 0 && this.#bodiesLength > 0;
  }

  /** Ends the frame; what follows belongs to the next. */
  #close(): OpenFrame {
    const open: OpenFrame = {
      // The writer's own buffer is used again.
      tokens: Buffer.from(this.#tokens.finish()),
      crc: this.#crc.take(),
      bodiesLength: this.#bodiesLength,
      counts: {
        kind: 'memory',
        rawBytes: this.rawBytes,
        zeroPages: this.#zeroPages,
        dataPages: this.#dataPages,
        referencedPages: this.#referencedPages,
        repeatedPages: this.#repeatedPages,
        residuePages: this.#residuePages,
        ...(this.#referencedPages === 0 ? {} : this.#lendReferenced()),
      },
    };
    this.#referencedPages = 0;
    this.#repeatedPages = 0;
    this.#residuePages = 0;
    this.rawBytes = 0;
    this.#bodiesLength = 0;
    this.#zeroPages = 0;
    this.#dataPages = 0;
    return open;
  }

  /** The buffer itself, not a copy: it comes back when the far side has the pages. */
  #lendReferenced(): Pick<EncodedFrame, 'referenced' | 'recycle'> {
    const whole = this.#referenced;
    this.#referenced = this.#spareReferenced.pop() ?? Buffer.allocUnsafeSlow(whole.length);
    return {
      referenced: whole.subarray(0, this.#referencedPages * PAGE_BYTES),
      recycle: () => this.#spareReferenced.push(whole),
    };
  }

  #finish(open: OpenFrame, bodies: Buffer, packed: Buffer | undefined): EncodedFrame {
    const { tokens, crc, counts } = open;
    const smaller = packed !== undefined && packed.length < bodies.length;
    const content = smaller ? packed : bodies;
    const plain = this.#codec === CODEC_RLE ? CODEC_RLE : CODEC_RAW;
    const payload = Buffer.allocUnsafeSlow(MEMORY_HEADER_BYTES + tokens.length + content.length);
    const codec = smaller ? CODEC_ZSTD : plain;
    writeFrameHeader(payload, { kind: 'memory', codec, rawBytes: counts.rawBytes, crc32: crc });
    payload.writeUInt32LE(tokens.length, FRAME_HEADER_BYTES);
    payload.writeUInt32LE(open.bodiesLength, FRAME_HEADER_BYTES + 4);
    payload.writeUInt32LE(counts.referencedPages, FRAME_HEADER_BYTES + 8);
    tokens.copy(payload, MEMORY_HEADER_BYTES);
    content.copy(payload, MEMORY_HEADER_BYTES + tokens.length);
    return { ...counts, payload };
  }

  /** For the bodies of a frame. */
  #room(): Buffer {
    // The last record may overshoot; an RLE body has 2 bytes more than its page, of which a record header makes up 8.
    return Buffer.allocUnsafeSlow(this.#limitBytes + 2 * PAGE_BYTES);
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
}

/** A few samples reject nearly every page that has content. */
function isBlank(buf: Buffer, start: number): boolean {
  if ((buf[start] as number) | (buf[start + 1] as number) | (buf[start + 2047] as number)) return false;
  if ((buf[start + 4095] as number) | (buf[start + 1024] as number) | (buf[start + 8] as number))
    return false;
  return buf.compare(ZERO_PAGE, 0, PAGE_BYTES, start, start + PAGE_BYTES) === 0;
}
