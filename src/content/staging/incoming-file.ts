import { createHash } from 'node:crypto';
import { chmod, type FileHandle, open } from 'node:fs/promises';
import type { ArtefactFile } from './artefact.ts';
import { JOURNAL_BYTES, STAGE_RESERVE_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import { asStageError, freeBytesAt, type Part } from './part.ts';

const PIECE_BYTES = 1024 * 1024;
/** Zeros within what arrives are left out of the file in pieces of this size: its holes stay holes. */
const HOLE_BYTES = 4096;
const zeros = Buffer.alloc(PIECE_BYTES);

/** One file of a part while it arrives: written in order, hashed on the way, made durable from time to time. */
export class IncomingFile implements AsyncDisposable {
  readonly file: ArtefactFile;
  readonly #part: Part;
  readonly #handle: FileHandle;
  #hash = createHash('sha256');
  #offset = 0;
  #noted = 0;

  private constructor(part: Part, file: ArtefactFile, handle: FileHandle) {
    this.#part = part;
    this.file = file;
    this.#handle = handle;
  }

  /** Takes up what is durable of the file; it is hashed again. @throws STAGE_WRITE_FAILED, STAGE_NO_SPACE, the signal's reason */
  static async open(part: Part, file: ArtefactFile, signal: AbortSignal): Promise<IncomingFile> {
    const path = part.pathOf(file.name);
    try {
      const offset = Math.min(await part.offsetOf(file.name), file.fileBytes);
      // an attempt that ended while it came into the store has left it read-only
      await chmod(path, 0o600).catch(() => {});
      const handle = await open(path, offset > 0 ? 'r+' : 'w+', 0o600);
      const incoming = new IncomingFile(part, file, handle);
      try {
        await handle.truncate(offset);
        await incoming.#rehash(offset, signal);
      } catch (error) {
        await handle.close();
        throw error;
      }
      return incoming;
    } catch (cause) {
      signal.throwIfAborted();
      throw asStageError(cause, path);
    }
  }

  /** What is here; the next byte belongs there. */
  get offsetBytes(): number {
    return this.#offset;
  }

  async #rehash(offset: number, signal: AbortSignal): Promise<void> {
    const buffer = Buffer.allocUnsafe(PIECE_BYTES);
    while (this.#offset < offset) {
      signal.throwIfAborted();
      const wanted = Math.min(PIECE_BYTES, offset - this.#offset);
      const { bytesRead } = await this.#handle.read(buffer, 0, wanted, this.#offset);
      if (bytesRead === 0) break;
      this.#hash.update(buffer.subarray(0, bytesRead));
      this.#offset += bytesRead;
    }
    this.#noted = this.#offset;
  }

  /** The next bytes; undefined means zeros, which become a hole. @throws STAGE_PROTOCOL, STAGE_NO_SPACE, STAGE_WRITE_FAILED */
  async write(offsetBytes: number, lengthBytes: number, data: Buffer | undefined): Promise<void> {
    if (offsetBytes !== this.#offset || offsetBytes + lengthBytes > this.file.fileBytes)
      throw fail('STAGE_PROTOCOL', `${this.file.name}: bytes at ${offsetBytes} instead of ${this.#offset}`);
    try {
      if (data) await this.#writeData(data, offsetBytes);
      else await this.#hashZeros(lengthBytes);
      this.#offset += lengthBytes;
      if (this.#offset - this.#noted >= JOURNAL_BYTES) await this.note();
    } catch (cause) {
      throw asStageError(cause, this.file.name);
    }
  }

  async #writeData(data: Buffer, offsetBytes: number): Promise<void> {
    this.#hash.update(data);
    for (let at = 0; at < data.length; ) {
      const start = at;
      while (at < data.length && !isZero(data, at)) at += HOLE_BYTES;
      const end = Math.min(at, data.length);
      for (let done = start; done < end; )
        done += (await this.#handle.write(data, done, end - done, offsetBytes + done)).bytesWritten;
      while (at < data.length && isZero(data, at)) at += HOLE_BYTES;
    }
  }

  async #hashZeros(lengthBytes: number): Promise<void> {
    for (let left = lengthBytes; left > 0; left -= PIECE_BYTES) {
      this.#hash.update(zeros.subarray(0, Math.min(left, PIECE_BYTES)));
      // terabytes of zeros take a while, and a cancel must get through
      if (left % (64 * PIECE_BYTES) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** Makes what is here durable and notes it. @throws STAGE_NO_SPACE, STAGE_WRITE_FAILED */
  async note(): Promise<void> {
    try {
      if (this.#offset === this.#noted) return;
      if ((await freeBytesAt(this.#part.folder)) < STAGE_RESERVE_BYTES)
        throw fail('STAGE_NO_SPACE', this.file.name);
      // a hole at the end counts, too
      await this.#handle.truncate(this.#offset);
      await this.#handle.datasync();
      await this.#part.note(this.file.name, this.#offset);
      this.#noted = this.#offset;
    } catch (cause) {
      throw asStageError(cause, this.file.name);
    }
  }

  /** Whether the whole file is here and is what the manifest says; then it is noted as such. */
  async finish(): Promise<boolean> {
    if (this.#offset !== this.file.fileBytes || this.#hash.digest('hex') !== this.file.sha256) return false;
    try {
      await this.#handle.truncate(this.file.fileBytes);
      await this.#handle.datasync();
      await this.#part.note(this.file.name, this.file.fileBytes, true);
    } catch (cause) {
      throw asStageError(cause, this.file.name);
    }
    return true;
  }

  /** Forgets what is here. */
  async restart(): Promise<void> {
    this.#hash = createHash('sha256');
    this.#offset = 0;
    this.#noted = 0;
    await this.#handle.truncate(0);
    await this.#part.note(this.file.name, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close();
  }
}

function isZero(data: Buffer, at: number): boolean {
  const end = Math.min(at + HOLE_BYTES, data.length);
  return data.compare(zeros, 0, end - at, at, end) === 0;
}
