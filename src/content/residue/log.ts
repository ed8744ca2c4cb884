import { mkdir, open, rename, rm, writeFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import type { CloudapError } from '../../base/errors.ts';
import type { PageSink } from '../../wire/qemu-stream/content.ts';
import { PAGE_BYTES } from '../pages/constants.ts';
import { LOG_CHUNK_BYTES, LOG_CHUNKS_MAX } from './constants.ts';
import { fail } from './errors.ts';

/**
 * Streams of a migration whose pages are noted, in the order in which the logs are put together. Within each both ends
 * see the same pages in the same order; between them there is none.
 */
export const LOG_STREAMS = ['memory', 'memory-urgent', 'disk', 'disk-urgent'] as const;
export type LogStream = (typeof LOG_STREAMS)[number];

/** Says that the log is whole, and how long its files are; written last. */
export const LOG_NOTE = 'log.json';
export interface LogNote {
  readonly version: 1;
  /** By LOG_STREAMS. */
  readonly bytes: readonly number[];
}

export const logFile = (folder: string, stream: LogStream): string => join(folder, `${stream}.pages`);

export interface ContentLogOptions {
  /** Is made, and goes with the log if that is given up. */
  readonly folder: string;
  readonly maxBytes: number;
  /** Called once, when the log is given up for a reason of its own. */
  readonly onGivenUp: (error: CloudapError) => void;
}

interface Stream {
  readonly path: string;
  chunk: Buffer | undefined;
  filled: number;
  writtenBytes: number;
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
  readonly #streams: Record<LogStream, Stream>;
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
    const stream = (name: LogStream): Stream => ({
      path: logFile(options.folder, name),
      chunk: undefined,
      filled: 0,
      writtenBytes: 0,
      file: undefined,
      writing: this.#made,
    });
    this.#streams = {
      memory: stream('memory'),
      'memory-urgent': stream('memory-urgent'),
      disk: stream('disk'),
      'disk-urgent': stream('disk-urgent'),
    };
  }

  /** Whether it is still being written. */
  get isOpen(): boolean {
    return this.#state === 'open';
  }

  /** Takes the pages of one stream; they are copied, and it never waits. */
  sink(name: LogStream): PageSink {
    const stream = this.#streams[name];
    return { add: (buf, start) => this.#add(stream, buf, start) };
  }

  /** Ends the log and removes its files. `error` is told to `onGivenUp`; without it somebody wanted it so. */
  giveUp(error?: CloudapError): void {
    if (this.#state !== 'open') return;
    this.#state = 'given-up';
    this.#free.length = 0;
    for (const stream of Object.values(this.#streams)) stream.chunk = undefined;
    if (error) this.#options.onGivenUp(error);
    this.#removed = this.#remove();
  }

  /** Writes the rest and says that the log is whole; false where it was given up. Never rejects. */
  async finish(): Promise<boolean> {
    if (this.#state === 'open') {
      for (const stream of Object.values(this.#streams)) this.#write(stream);
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

  #add(stream: Stream, buf: Buffer, start: number): void {
    if (this.#state !== 'open') return;
    this.#bytes += PAGE_BYTES;
    if (this.#bytes > this.#options.maxBytes)
      return this.giveUp(fail('RESIDUE_LOG_FULL', `more than ${this.#options.maxBytes} bytes`));
    stream.chunk ??= this.#takeChunk();
    if (!stream.chunk) return this.giveUp(fail('RESIDUE_LOG_SLOW'));
    buf.copy(stream.chunk, stream.filled, start, start + PAGE_BYTES);
    stream.filled += PAGE_BYTES;
    if (stream.filled === LOG_CHUNK_BYTES) this.#write(stream);
  }

  /** Undefined where all of them wait for the disk. */
  #takeChunk(): Buffer | undefined {
    const chunk = this.#free.pop();
    if (chunk) return chunk;
    if (this.#chunks === LOG_CHUNKS_MAX) return undefined;
    this.#chunks += 1;
    return Buffer.allocUnsafeSlow(LOG_CHUNK_BYTES);
  }

  #write(stream: Stream): void {
    const { chunk, filled } = stream;
    if (!chunk || filled === 0) return;
    stream.chunk = undefined;
    stream.filled = 0;
    stream.writing = stream.writing.then(async () => {
      if (this.#state !== 'open') return;
      stream.file ??= await open(stream.path, 'wx', 0o600);
      for (let at = 0; at < filled; ) {
        const { bytesWritten } = await stream.file.write(chunk, at, filled - at, stream.writtenBytes);
        at += bytesWritten;
        stream.writtenBytes += bytesWritten;
      }
      this.#free.push(chunk);
    });
    stream.writing.catch((cause: unknown) =>
      this.giveUp(fail('RESIDUE_LOG_FAILED', (cause as Error).message, { cause })),
    );
  }

  async #closeFiles(): Promise<void> {
    for (const stream of Object.values(this.#streams)) {
      await stream.writing;
      const { file } = stream;
      stream.file = undefined;
      await file?.close();
    }
  }

  async #writeNote(): Promise<void> {
    const note: LogNote = {
      version: 1,
      bytes: LOG_STREAMS.map((name) => this.#streams[name].writtenBytes),
    };
    const path = join(this.#options.folder, LOG_NOTE);
    await writeFile(`${path}.next`, JSON.stringify(note), { mode: 0o600 });
    await rename(`${path}.next`, path);
  }

  async #remove(): Promise<void> {
    for (const stream of Object.values(this.#streams)) {
      await stream.writing.catch(() => {});
      await stream.file?.close().catch(() => {});
    }
    await rm(this.#options.folder, { recursive: true, force: true }).catch(() => {});
  }
}
