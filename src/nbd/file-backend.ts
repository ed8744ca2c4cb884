import {
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  openSync,
  readSync,
  write as writeFile,
  writeSync,
} from 'node:fs';
import { promisify } from 'node:util';
import type { NbdBackend } from './backend.ts';

const fdatasyncAsync = promisify(fdatasync);
const writeAsync = promisify(writeFile);
/** Up to here a write goes to the page cache within microseconds, less than a trip through the thread pool costs. */
const SYNC_WRITE_BYTES = 256 * 1024;
const ZEROES = Buffer.alloc(1024 * 1024);

/**
 * Serves a raw file. Reads are synchronous: out of the page cache they are much faster than a trip through the thread
 * pool. A file on a slow disk that is not cached holds up the whole process meanwhile.
 */
export class FileBackend implements NbdBackend, Disposable {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #fd: number;

  /** @throws what opening the file throws (`ENOENT`, `EACCES`, ...) */
  constructor(path: string, options: { readOnly?: boolean } = {}) {
    this.readOnly = options.readOnly ?? false;
    this.#fd = openSync(path, this.readOnly ? constants.O_RDONLY : constants.O_RDWR);
    this.sizeBytes = fstatSync(this.#fd).size;
  }

  read(offset: number, lengthBytes: number): Buffer {
    const data = Buffer.allocUnsafe(lengthBytes);
    let filled = 0;
    while (filled < lengthBytes) {
      const count = readSync(this.#fd, data, filled, lengthBytes - filled, offset + filled);
      // the file has become shorter: what is missing reads as zeroes, as in a sparse file
      if (count === 0) return data.fill(0, filled);
      filled += count;
    }
    return data;
  }

  write(offset: number, data: Buffer): void | Promise<void> {
    if (data.length > SYNC_WRITE_BYTES) return this.#writeLong(offset, data);
    for (let done = 0; done < data.length; ) {
      done += writeSync(this.#fd, data, done, data.length - done, offset + done);
    }
  }

  async flush(): Promise<void> {
    await fdatasyncAsync(this.#fd);
  }

  async writeZeroes(offset: number, lengthBytes: number): Promise<void> {
    for (let done = 0; done < lengthBytes; done += ZEROES.length) {
      await this.#writeLong(offset + done, ZEROES.subarray(0, Math.min(ZEROES.length, lengthBytes - done)));
    }
  }

  close(): void {
    closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #writeLong(offset: number, data: Buffer): Promise<void> {
    for (let done = 0; done < data.length; ) {
      const { bytesWritten } = await writeAsync(this.#fd, data, done, data.length - done, offset + done);
      done += bytesWritten;
    }
  }
}
