import { mkdir, open, rename, rm, writeFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { withTimeout } from '../../base/async.ts';
import type { CloudapError } from '../../base/errors.ts';
import type { PageSink } from '../../wire/qemu-stream/content.ts';
import { PAGE_BYTES } from '../pages/constants.ts';
import {
  LOG_CHUNK_BYTES,
  LOG_CHUNKS_BUSY,
  LOG_CHUNKS_MAX,
  LOG_HOLD_MAX_MS,
  LOG_SECTORS_MAX,
} from './constants.ts';
import { fail } from './errors.ts';

/**
 * Parts of a log, in the order in which they are put together: QEMU's two channels, each in the order of its stream, and the
 * sectors of the overlay, written as they come and put in the order of the file at the end. So both ends come to the
 * same bytes, whatever overtook what on the way.
 */
export const LOG_PARTS = ['memory', 'memory-urgent', 'disk'] as const;
export type LogPart = (typeof LOG_PARTS)[number];
export type LogStream = Exclude<LogPart, 'disk'>;

/** Number of each sector in the disk's part, u32, little endian. */
export const SECTORS_FILE = 'disk.sectors';
/** Says that the log is whole, and how long its files are; written last. */
export const LOG_NOTE = 'log.json';
export interface LogNote {
  readonly version: 1;
  /** By LOG_PARTS. */
  readonly bytes: readonly number[];
}

export const logFile = (folder: string, part: LogPart): string => join(folder, `${part}.pages`);

export interface ContentLogOptions {
  /** Is made, and goes with the log if that is given up. */
  readonly folder: string;
  readonly maxBytes: number;
  /** Called once, when the log is given up for a reason of its own. */
  readonly onGivenUp: (error: CloudapError) => void;
}

interface Part {
  readonly path: string;
  chunk: Buffer | undefined;
  filled: number;
  /** What waits to be written, in order; only the last may be shorter than a chunk. */
  full: Buffer[];
  writtenBytes: number;
  file: FileHandle | undefined;
  /** Undefined while nothing waits. */
  writing: Promise<void> | undefined;
}

/**
 * What travels in a migration, page by page, at either end: the bodies that go as bytes and those that refer to other
 * residue, so that the log names all that the VM has beyond images and templates. It is written beside the migration with
 * bounded memory. Whatever goes wrong ends the log and nothing else.
 */
export class ContentLog implements AsyncDisposable {
  readonly #options: ContentLogOptions;
  readonly #parts: Record<LogPart, Part>;
  readonly #free: Buffer[] = [];
  readonly #made: Promise<void>;
  #sectors = new Uint32Array(1024);
  #sectorCount = 0;
  #chunks = 0;
  /** Chunks that wait to be written. */
  #waiting = 0;
  #room: PromiseWithResolvers<void> | undefined;
  #heldMs = 0;
  #bytes = 0;
  #takesMore = true;
  #state: 'open' | 'given-up' | 'finished' = 'open';
  #noting: Promise<void> | undefined;
  #removed: Promise<void> | undefined;

  constructor(options: ContentLogOptions) {
    this.#options = options;
    this.#made = mkdir(options.folder, { recursive: true, mode: 0o700 }).then(() => {});
    this.#made.catch(() => {});
    const part = (name: LogPart): Part => ({
      path: logFile(options.folder, name),
      chunk: undefined,
      filled: 0,
      full: [],
      writtenBytes: 0,
      file: undefined,
      writing: undefined,
    });
    this.#parts = { memory: part('memory'), 'memory-urgent': part('memory-urgent'), disk: part('disk') };
  }

  /** Whether it is still being written. */
  get isOpen(): boolean {
    return this.#state === 'open';
  }

  /** Takes the pages of one stream; they are copied, and it never waits. */
  sink(name: LogStream): PageSink {
    const part = this.#parts[name];
    return { add: (buf, start) => this.#add(part, buf, start) };
  }

  /** Takes a sector of the overlay, however often and in whatever order; the same every time. */
  put(sector: number, buf: Buffer, start: number): void {
    if (this.#state !== 'open' || !this.#takesMore) return;
    if (this.#sectorCount === LOG_SECTORS_MAX)
      return this.giveUp(fail('RESIDUE_LOG_FULL', `${LOG_SECTORS_MAX} sectors`));
    if (this.#sectorCount === this.#sectors.length) {
      const grown = new Uint32Array(2 * this.#sectors.length);
      grown.set(this.#sectors);
      this.#sectors = grown;
    }
    this.#sectors[this.#sectorCount++] = sector;
    this.#add(this.#parts.disk, buf, start);
  }

  /**
   * What may wait for the disk waits here: undefined while there is room. After LOG_HOLD_MAX_MS in all nothing waits any
   * more, and a disk that is still too slow loses the log.
   */
  room(): Promise<void> | undefined {
    if (this.#state !== 'open' || this.#waiting < LOG_CHUNKS_BUSY || this.#heldMs >= LOG_HOLD_MAX_MS)
      return undefined;
    return this.#hold();
  }

  /** Ends the log and removes its files. `error` is told to `onGivenUp`; without it somebody wanted it so. */
  giveUp(error?: CloudapError): void {
    if (this.#state !== 'open') return;
    this.#state = 'given-up';
    this.#goOn();
    this.#free.length = 0;
    for (const part of Object.values(this.#parts)) {
      part.chunk = undefined;
      part.full = [];
    }
    if (error) this.#options.onGivenUp(error);
    this.#removed = this.#remove();
  }

  /** Writes the rest and says that the log is whole; false where it was given up. Never rejects. */
  async finish(): Promise<boolean> {
    this.#takesMore = false;
    if (this.#state === 'open') {
      for (const part of Object.values(this.#parts)) this.#close(part);
      try {
        await this.#made;
        await this.#closeFiles();
        // a write that failed has given the log up
        if (this.#state === 'open') await (this.#noting = this.#writeNote());
      } catch (cause) {
        this.giveUp(fail('RESIDUE_LOG_FAILED', (cause as Error).message, { cause }));
      }
      if (this.#state === 'open') this.#state = 'finished';
    }
    await this.#removed;
    return this.#state === 'finished';
  }

  /** What is not finished goes. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.giveUp();
    await this.#removed;
  }

  #add(part: Part, buf: Buffer, start: number): void {
    if (this.#state !== 'open' || !this.#takesMore) return;
    this.#bytes += PAGE_BYTES;
    if (this.#bytes > this.#options.maxBytes)
      return this.giveUp(fail('RESIDUE_LOG_FULL', `more than ${this.#options.maxBytes} bytes`));
    part.chunk ??= this.#takeChunk();
    if (!part.chunk) return this.giveUp(fail('RESIDUE_LOG_SLOW'));
    buf.copy(part.chunk, part.filled, start, start + PAGE_BYTES);
    part.filled += PAGE_BYTES;
    if (part.filled === LOG_CHUNK_BYTES) this.#close(part);
  }

  /** Undefined where all of them wait for the disk. */
  #takeChunk(): Buffer | undefined {
    const chunk = this.#free.pop();
    if (chunk) return chunk;
    if (this.#chunks === LOG_CHUNKS_MAX) return undefined;
    this.#chunks += 1;
    return Buffer.allocUnsafeSlow(LOG_CHUNK_BYTES);
  }

  /** The part's chunk is to be written. */
  #close(part: Part): void {
    const { chunk, filled } = part;
    if (!chunk || filled === 0) return;
    part.chunk = undefined;
    part.filled = 0;
    part.full.push(filled === chunk.length ? chunk : chunk.subarray(0, filled));
    this.#waiting += 1;
    part.writing ??= this.#write(part).catch((cause: unknown) =>
      this.giveUp(fail('RESIDUE_LOG_FAILED', (cause as Error).message, { cause })),
    );
  }

  /** Writes until nothing waits: all that came while it wrote goes in one piece. */
  async #write(part: Part): Promise<void> {
    try {
      await this.#made;
      part.file ??= await open(part.path, 'wx', 0o600);
      while (part.full.length > 0 && this.#state === 'open') {
        const chunks = part.full;
        part.full = [];
        await writeAll(part.file, chunks, part.writtenBytes);
        part.writtenBytes += chunks.reduce((sum, { length }) => sum + length, 0);
        this.#waiting -= chunks.length;
        this.#free.push(...chunks.filter(({ length }) => length === LOG_CHUNK_BYTES));
        if (this.#waiting < LOG_CHUNKS_BUSY) this.#goOn();
      }
    } finally {
      part.writing = undefined;
    }
  }

  async #hold(): Promise<void> {
    const beganMs = performance.now();
    this.#room ??= Promise.withResolvers();
    const { promise } = this.#room;
    const leftMs = LOG_HOLD_MAX_MS - this.#heldMs;
    await withTimeout(promise, leftMs, () => new Error('held up')).catch(() => {});
    this.#heldMs += performance.now() - beganMs;
  }

  #goOn(): void {
    this.#room?.resolve();
    this.#room = undefined;
  }

  async #closeFiles(): Promise<void> {
    for (const part of Object.values(this.#parts)) {
      while (part.writing) await part.writing;
      const { file } = part;
      part.file = undefined;
      await file?.close();
    }
  }

  async #writeNote(): Promise<void> {
    const sectors = new Uint8Array(this.#sectors.buffer, 0, 4 * this.#sectorCount);
    await writeFile(join(this.#options.folder, SECTORS_FILE), sectors, { mode: 0o600 });
    const note: LogNote = {
      version: 1,
      bytes: LOG_PARTS.map((name) => this.#parts[name].writtenBytes),
    };
    const path = join(this.#options.folder, LOG_NOTE);
    await writeFile(`${path}.next`, JSON.stringify(note), { mode: 0o600 });
    await rename(`${path}.next`, path);
  }

  async #remove(): Promise<void> {
    // what is still to come to the folder would come after its removal
    await Promise.allSettled([this.#made, this.#noting]);
    for (const part of Object.values(this.#parts)) {
      await part.writing?.catch(() => {});
      await part.file?.close().catch(() => {});
    }
    await rm(this.#options.folder, { recursive: true, force: true }).catch(() => {});
  }
}

async function writeAll(file: FileHandle, chunks: readonly Buffer[], position: number): Promise<void> {
  let rest = chunks;
  let at = position;
  while (rest.length > 0) {
    const { bytesWritten } = await file.writev(rest, at);
    at += bytesWritten;
    let skip = bytesWritten;
    rest = rest.flatMap((chunk) => {
      const written = Math.min(skip, chunk.length);
      skip -= written;
      return written === chunk.length ? [] : [chunk.subarray(written)];
    });
  }
}
