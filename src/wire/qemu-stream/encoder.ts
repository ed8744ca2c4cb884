import { CODEC_ZSTD, type CodecName, codecIds, ZSTD_DEFAULT_LEVEL } from '../codec.ts';
import { type EncodedFrame, MemoryBatch, type PackLater } from './batch.ts';
import {
  FRAME_RAW_BYTES,
  FRAME_RAW_MAX_BYTES,
  FRAME_RAW_MIN_BYTES,
  PACKAGED_FRAME_RAW_BYTES,
  PAGE_BYTES,
  RAM_CONTINUE,
  SECTION_PART,
  SECTION_START,
} from './constants.ts';
import type { Continuity } from './continuity.ts';
import type { ContentLookup, ResidueRule } from './content.ts';
import { DeviceBatch } from './device-batch.ts';
import { fail } from './errors.ts';
import { type PageCounts, PageLedger } from './pages.ts';
import { StreamParser } from './parser.ts';
import type { RamBlock, RestReason, StreamSink } from './sink.ts';

/**
 * What the encoder saw, told synchronously and in stream order: after every frame of earlier memory was emitted, before
 * the frame that holds the thing itself. An exception from a hook leaves `push`; the encoder is unusable then.
 */
export interface StreamHooks {
  /** The RAM blocks, once, when their list is complete. */
  onRamBlocks?(blocks: readonly RamBlock[]): void;
  /** A command of the stream (COMMAND_* in constants.ts), PACKAGED excepted. */
  onCommand?(id: number, data: Buffer): void;
  /** The length of the device package has been read: the source is stopped and its images are inactive by now. */
  onPackagedStart?(lengthBytes: number): void;
  /** A RAM section has ended; `end` is the last one. */
  onSectionEnd?(type: 'start' | 'part' | 'end'): void;
  /** Nothing from here on is parsed: `devices` means that QEMU completed as pre-copy. */
  onRest?(reason: RestReason, detail: string): void;
}

/** Frames whose bodies another thread packs. */
export interface Background {
  /** Asked at the end of each memory frame; undefined: it is packed and emitted at once. */
  packer(): PackLater | undefined;
  /** Called in place of `emit`, in the same order: such a frame comes before those that are emitted after it. */
  emit(frame: Promise<EncodedFrame>): void;
}

export interface StreamEncoderOptions extends StreamHooks {
  /** `main`, or `ram` for the second channel of postcopy-preempt. Default: main. */
  readonly mode?: 'main' | 'ram';
  /** How the bodies of pages are packed. Default: zstd. */
  readonly codec?: CodecName;
  /** Default: ZSTD_DEFAULT_LEVEL; 0 for none. */
  readonly zstdLevel?: number | undefined;
  /** Stream bytes a frame (8 KiB to 1 MiB). Default: FRAME_RAW_BYTES. */
  readonly frameRawBytes?: number;
  /** Without it every frame is packed on the spot. */
  readonly background?: Background;
  /** Has records named that QEMU has wrongly left without a name; both channels' encoders share one. */
  readonly continuity?: Continuity | undefined;
  /** Fail with STREAM_UNKNOWN instead of passing on what is not understood. */
  readonly strict?: boolean;
}

export interface KindStats {
  bytesRaw: number;
  bytesEncoded: number;
  frames: number;
}

export interface StreamStats extends PageCounts {
  readonly memory: Readonly<KindStats>;
  readonly device: Readonly<KindStats>;
  readonly frames: number;
  readonly blocks: readonly RamBlock[];
  /** Sum of the blocks in pages; 0 while the list is not known (and in mode `ram`). */
  readonly pagesTotal: number;
  /** Pages since `mark()`, or since the start. */
  readonly sinceMark: Readonly<PageCounts>;
  /** Pages that travelled as a reference to what the far side holds, and as a repeat of what was sent before. */
  readonly pagesReferenced: number;
  readonly pagesDuplicate: number;
  /** Of the references: those to residue. */
  readonly pagesFromResidue: number;
  /** `live` until PACKAGED was seen, `postcopy` from then on, `rest` when nothing is parsed any more. */
  readonly stage: 'live' | 'postcopy' | 'rest';
  readonly restReason?: RestReason;
}

/**
 * Source side of the memory path: takes the bytes of QEMU's migration stream and emits frames, from which a
 * StreamDecoder makes the identical bytes, but for names that `continuity` adds. Nothing is kept back but the record that is not whole yet and the frame that
 * is not full: call `flush()` whenever the source has nothing more to read.
 */
export class StreamEncoder {
  readonly #emit: (frame: EncodedFrame) => void;
  readonly #background: Background | undefined;
  readonly #hooks: StreamHooks;
  readonly #parser: StreamParser;
  readonly #memory: MemoryBatch;
  readonly #device = new DeviceBatch();
  readonly #ledger = new PageLedger();
  readonly #frameRawBytes: number;
  readonly #strict: boolean;
  readonly #continuity: Continuity | undefined;
  readonly #channel: 'main' | 'urgent';
  /** The next record is the first of its section. */
  #isFirst = true;
  readonly #stats = {
    memory: { bytesRaw: 0, bytesEncoded: 0, frames: 0 },
    device: { bytesRaw: 0, bytesEncoded: 0, frames: 0 },
  };
  #pagesReferenced = 0;
  #pagesDuplicate = 0;
  #pagesFromResidue = 0;
  #blocks: readonly RamBlock[] = [];
  #stage: StreamStats['stage'] = 'live';
  #restReason: RestReason | undefined;
  #ended = false;

  constructor(options: StreamEncoderOptions, emit: (frame: EncodedFrame) => void) {
    this.#emit = emit;
    this.#background = options.background;
    this.#hooks = options;
    this.#strict = options.strict ?? false;
    this.#continuity = options.continuity;
    this.#channel = options.mode === 'ram' ? 'urgent' : 'main';
    const asked = options.frameRawBytes ?? FRAME_RAW_BYTES;
    this.#frameRawBytes = Math.min(FRAME_RAW_MAX_BYTES, Math.max(FRAME_RAW_MIN_BYTES, asked));
    this.#memory = new MemoryBatch({
      codec: options.codec === undefined ? CODEC_ZSTD : codecIds[options.codec],
      zstdLevel: options.zstdLevel ?? ZSTD_DEFAULT_LEVEL,
      frameRawBytes: this.#frameRawBytes,
    });
    this.#parser = new StreamParser(options.mode ?? 'main', this.#sink());
  }

  /**
   * Takes the next bytes of the stream; `chunk` may be reused afterwards.
   * @throws STREAM_PACKAGED_TOO_LARGE, STREAM_ENDED; STREAM_UNKNOWN if strict
   */
  push(chunk: Buffer): void {
    if (this.#ended) throw fail('STREAM_ENDED');
    this.#parser.push(chunk);
  }

  /** Emits what is complete now. A record or device package that is not whole yet stays. */
  flush(): void {
    this.#flushMemory();
    if (!this.#parser.insidePackaged) this.#flushDevice();
  }

  /** The stream has ended: emits everything, an unfinished record as opaque bytes. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#parser.end();
    this.#flushMemory();
    this.#flushDevice();
  }

  /**
   * Before the first `push`: pages are named where the far side holds them (`content`) or where one of the last
   * `repeatPages` bodies was the same. The decoder must be given the same `repeatPages`, and, for its sink to get the same
   * pages, the same `residue.firstNumber`.
   */
  useContent(content: ContentLookup | undefined, repeatPages: number, residue?: ResidueRule): void {
    this.#memory.useContent(content, repeatPages, residue);
  }

  /** The far side's content is not what it should be: no more references. */
  dropContent(): void {
    this.#memory.dropContent();
  }

  /** Level of zstd for the bodies of the frame at hand and of those that follow; 0 leaves them as they are. */
  tune(zstdLevel: number): void {
    this.#memory.zstdLevel = zstdLevel;
  }

  /** From now on `stats().sinceMark` counts from here. */
  mark(): void {
    this.#ledger.mark();
  }

  stats(): StreamStats {
    const { memory, device } = this.#stats;
    return {
      ...this.#ledger.total(),
      memory: { ...memory },
      device: { ...device },
      frames: memory.frames + device.frames,
      blocks: this.#blocks,
      pagesTotal: this.#blocks.reduce((sum, block) => sum + Math.ceil(block.lengthBytes / PAGE_BYTES), 0),
      sinceMark: this.#ledger.sinceMark(),
      pagesReferenced: this.#pagesReferenced,
      pagesDuplicate: this.#pagesDuplicate,
      pagesFromResidue: this.#pagesFromResidue,
      stage: this.#stage,
      ...(this.#restReason === undefined ? {} : { restReason: this.#restReason }),
    };
  }

  #flushMemory(): void {
    const background = this.#background;
    const packer = background?.packer();
    if (!background || !packer) {
      this.#send(this.#memory.take());
      return;
    }
    const frame = this.#memory.takeLater(packer);
    if (!(frame instanceof Promise)) this.#send(frame);
    else background.emit(frame.then((packed) => this.#counted(packed)));
  }

  #flushDevice(): void {
    this.#send(this.#device.take());
  }

  #send(frame: EncodedFrame | undefined): void {
    if (frame) this.#emit(this.#counted(frame));
  }

  #counted(frame: EncodedFrame): EncodedFrame {
    const stats = this.#stats[frame.kind];
    stats.bytesRaw += frame.rawBytes;
    stats.bytesEncoded += frame.payload.length;
    stats.frames++;
    this.#pagesReferenced += frame.referencedPages;
    this.#pagesDuplicate += frame.repeatedPages;
    this.#pagesFromResidue += frame.residuePages;
    return frame;
  }

  /** Memory follows: what the device batch holds goes first. */
  #beforeMemory(): MemoryBatch {
    if (this.#device.rawBytes > 0) this.#flushDevice();
    return this.#memory;
  }

  /** Any non-memory follows: what the memory batch holds goes first. */
  #beforeDevice(): DeviceBatch {
    if (this.#memory.rawBytes > 0) this.#flushMemory();
    return this.#device;
  }

  #enter(buf: Buffer, start: number, nameBytes: number): void {
    if (nameBytes > 0) this.#ledger.enter(buf.toString('latin1', start + 9, start + 8 + nameBytes));
  }

  /** The record itself, or with the name that it lacks. */
  #named(buf: Buffer, start: number, end: number, page: number, nameBytes: number): PageRecord {
    const record = { buf, start, end, nameBytes };
    if (!this.#continuity) return record;
    const own = nameBytes > 0 ? buf.toString('latin1', start + 9, start + 8 + nameBytes) : undefined;
    const name = this.#continuity.record(this.#channel, page, own, this.#isFirst);
    this.#isFirst = false;
    return name === undefined ? record : withName(buf, start, end, name);
  }

  #sink(): StreamSink {
    return {
      dataPage: (...record) => {
        const page = record[3];
        const { buf, start, end, nameBytes } = this.#named(...record);
        this.#enter(buf, start, nameBytes);
        const batch = this.#beforeMemory();
        this.#ledger.add(page, batch.dataPage(buf, start, end, page, nameBytes));
        if (batch.full) this.#flushMemory();
      },
      zeroPage: (...record) => {
        const page = record[3];
        const { buf, start, end, nameBytes } = this.#named(...record);
        this.#enter(buf, start, nameBytes);
        this.#ledger.add(page, true);
        const batch = this.#beforeMemory();
        batch.zeroPage(buf, start, end, page, nameBytes);
        if (batch.full) this.#flushMemory();
      },
      packedPage: (buf, start, end, page, nameBytes) => {
        this.#isFirst = false;
        this.#enter(buf, start, nameBytes);
        this.#ledger.add(page, false);
        const batch = this.#beforeMemory();
        batch.literal(buf, start, end, 1);
        if (batch.full) this.#flushMemory();
      },
      memory: (buf, start, end) => {
        const batch = this.#beforeMemory();
        batch.literal(buf, start, end);
        if (batch.full) this.#flushMemory();
      },
      device: (buf, start, end) => this.#addDevice(buf, start, end, this.#frameRawBytes),
      command: (id, data) => {
        this.#beforeDevice();
        this.#continuity?.command(id, data);
        this.#hooks.onCommand?.(id, data);
      },
      packagedStart: (lengthBytes) => {
        this.#beforeDevice();
        this.#flushDevice();
        this.#stage = 'postcopy';
        this.#continuity?.enterPostcopy();
        this.#hooks.onPackagedStart?.(lengthBytes);
      },
      packaged: (buf, start, end) => this.#addDevice(buf, start, end, PACKAGED_FRAME_RAW_BYTES),
      packagedEnd: () => this.#flushDevice(),
      blocks: (blocks) => {
        this.#blocks = blocks;
        this.#continuity?.enter(blocks);
        this.#hooks.onRamBlocks?.(blocks);
      },
      sectionEnd: (type) => {
        this.#isFirst = true;
        this.#hooks.onSectionEnd?.(type === SECTION_START ? 'start' : type === SECTION_PART ? 'part' : 'end');
      },
      rest: (reason, detail) => {
        if (this.#strict && reason === 'unknown') throw fail('STREAM_UNKNOWN', detail);
        this.#beforeDevice();
        this.#stage = 'rest';
        this.#restReason = reason;
        this.#hooks.onRest?.(reason, detail);
      },
      settle: () => this.#memory.settle(),
    };
  }

  #addDevice(buf: Buffer, start: number, end: number, limitBytes: number): void {
    const batch = this.#beforeDevice();
    let pos = start;
    while (pos < end) {
      const part = Math.min(end - pos, limitBytes - batch.rawBytes);
      batch.add(buf, pos, pos + part);
      pos += part;
      if (batch.rawBytes >= limitBytes) this.#flushDevice();
    }
  }
}

interface PageRecord {
  readonly buf: Buffer;
  readonly start: number;
  readonly end: number;
  readonly nameBytes: number;
}

/** A copy of a record without a name, with one: u64 page and flags, u8 + name, body. */
function withName(buf: Buffer, start: number, end: number, name: string): PageRecord {
  const nameBytes = 1 + name.length;
  const out = Buffer.allocUnsafe(end - start + nameBytes);
  buf.copy(out, 0, start, start + 8);
  out.writeUInt8((out[7] as number) & ~RAM_CONTINUE, 7);
  out.writeUInt8(name.length, 8);
  out.write(name, 9, 'latin1');
  buf.copy(out, 8 + nameBytes, start + 8, end);
  return { buf: out, start: 0, end: out.length, nameBytes };
}
