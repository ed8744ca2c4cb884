import { mkdir, open, rename, rm, writeFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { CloudapError } from '../../base/errors.ts';
import type { PageSink } from '../../wire/qemu-stream/content.ts';
import { PAGE_BYTES } from '../pages/constants.ts';
import { LOG_CHUNK_BYTES, LOG_CHUNKS_MAX } from './constants.ts';
import { fail } from './errors.ts';

/**
 * Parts of a log, in the order in which they are put together: QEMU's two channels, each in the order of its stream, and the
 * sectors of the overlay, each at its place in a sparse file. So both ends come to the same bytes, whatever overtook what
 * on the way.
 */
export const LOG_PARTS = ['memory', 'memory-urgent', 'disk'] as const;
export type LogPart = (typeof LOG_PARTS)[number];
export type LogStream = Exclude<LogPart, 'disk'>;

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
  /** Where the chunk belongs, and what is in it. */
  chunkAt: number;
  filled: number;
  /** Length of the file when all is written. */
  endBytes: number;
  file: FileHandle | undefined;
  writing: Promise<void>;
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
  #chunks = 0;
  #bytes = 0;
  #state: 'open' | 'given-up' | 'finished' = 'open';
  #removed: Promise<void> | undefined;

  constructor(options: ContentLogOptions) {
    this.#options = options;
    this.#made = mkdir(options.folder, { recursive: true, mode: 0o700 }).then(() => {});
    this.#made.catch(() => {});
    const part = (name: LogPart): Part => ({
      path: logFile(options.folder, name),
      chunk: undefined,
      chunkAt: 0,
      filled: 0,
      endBytes: 0,
      file: undefined,
      writing: this.#made,
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
    return { add: (buf, start) => this.#add(part, part.endBytes, buf, start) };
  }

  /** Takes a sector of the overlay, however often and in whatever order; the same every time. */
  put(sector: number, buf: Buffer, start: number): void {
    this.#add(this.#parts.disk, sector * PAGE_BYTES, buf, start);
  }

  /** Ends the log and removes its files. `error` is told to `onGivenUp`; without it somebody wanted it so. */
  giveUp(error?: CloudapError): void {
    if (this.#state !== 'open') return;
    this.#state = 'given-up';
    this.#free.length = 0;
    for (const part of Object.values(this.#parts)) part.chunk = undefined;
    if (error) this.#options.onGivenUp(error);
    this.#removed = this.#remove();
  }

  /** Writes the rest and says that the log is whole; false where it was given up. Never rejects. */
  async finish(): Promise<boolean> {
    if (this.#state === 'open') {
      for (const part of Object.values(this.#parts)) this.#write(part);
      try {
        await this.#closeFiles();
        // a write that failed has given the log up
        if (this.#state === 'open') await this.#writeNote();
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

  #add(part: Part, at: number, buf: Buffer, start: number): void {
    if (this.#state !== 'open') return;
    this.#bytes += PAGE_BYTES;
    if (this.#bytes > this.#options.maxBytes)
      return this.giveUp(fail('RESIDUE_LOG_FULL', `more than ${this.#options.maxBytes} bytes`));
    if (at !== part.chunkAt + part.filled) this.#write(part);
    if (!part.chunk) {
      part.chunk = this.#takeChunk();
      part.chunkAt = at;
    }
    if (!part.chunk) return this.giveUp(fail('RESIDUE_LOG_SLOW'));
    buf.copy(part.chunk, part.filled, start, start + PAGE_BYTES);
    part.filled += PAGE_BYTES;
    part.endBytes = Math.max(part.endBytes, at + PAGE_BYTES);
    if (part.filled === LOG_CHUNK_BYTES) this.#write(part);
  }

  /** Undefined where all of them wait for the disk. */
  #takeChunk(): Buffer | undefined {
    const chunk = this.#free.pop();
    if (chunk) return chunk;
    if (this.#chunks === LOG_CHUNKS_MAX) return undefined;
    this.#chunks += 1;
    return Buffer.allocUnsafeSlow(LOG_CHUNK_BYTES);
  }

  #write(part: Part): void {
    const { chunk, chunkAt, filled } = part;
    if (!chunk || filled === 0) return;
    part.chunk = undefined;
    part.filled = 0;
    part.writing = part.writing.then(async () => {
      if (this.#state !== 'open') return;
      part.file ??= await open(part.path, 'wx', 0o600);
      for (let at = 0; at < filled; )
        at += (await part.file.write(chunk, at, filled - at, chunkAt + at)).bytesWritten;
      this.#free.push(chunk);
    });
    part.writing.catch((cause: unknown) =>
      this.giveUp(fail('RESIDUE_LOG_FAILED', (cause as Error).message, { cause })),
    );
  }

  async #closeFiles(): Promise<void> {
    for (const part of Object.values(this.#parts)) {
      await part.writing;
      const { file } = part;
      part.file = undefined;
      await file?.close();
    }
  }

  async #writeNote(): Promise<void> {
    const note: LogNote = {
      version: 1,
      bytes: LOG_PARTS.map((name) => this.#parts[name].endBytes),
    };
    const path = join(this.#options.folder, LOG_NOTE);
    await writeFile(`${path}.next`, JSON.stringify(note), { mode: 0o600 });
    await rename(`${path}.next`, path);
  }

  async #remove(): Promise<void> {
    for (const part of Object.values(this.#parts)) {
      await part.writing.catch(() => {});
      await part.file?.close().catch(() => {});
    }
    await rm(this.#options.folder, { recursive: true, force: true }).catch(() => {});
  }
}
