import { ftruncateSync, readSync, writeSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { fail } from './errors.ts';

/** The target's local file: read synchronously (it is in the page cache, and that outruns a thread pool), written asynchronously. */
export class LocalFile {
  readonly #file: FileHandle;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** @throws DISK_WRITE_FAILED */
  static async open(path: string): Promise<LocalFile> {
    try {
      return new LocalFile(await open(path, 'r+'));
    } catch (cause) {
      throw fail('DISK_WRITE_FAILED', path, { cause });
    }
  }

  /** Always `lengthBytes`: past the end of the file there are zeros. */
  read(offsetBytes: number, lengthBytes: number): Buffer {
    const data = Buffer.allocUnsafe(lengthBytes);
    let done = 0;
    while (done < lengthBytes) {
      const got = readSync(this.#file.fd, data, done, lengthBytes - done, offsetBytes + done);
      if (got === 0) break;
      done += got;
    }
    return done < lengthBytes ? data.fill(0, done) : data;
  }

  /** Empties the file, then gives it its new size: every byte of it is a hole. At once, as `writeNow`. @throws DISK_WRITE_FAILED */
  reset(sizeBytes: number): void {
    try {
      ftruncateSync(this.#file.fd, 0);
      ftruncateSync(this.#file.fd, sizeBytes);
    } catch (cause) {
      throw fail('DISK_WRITE_FAILED', 'truncate', { cause });
    }
  }

  /** @throws DISK_WRITE_FAILED */
  async write(data: Buffer, offsetBytes: number): Promise<void> {
    await this.#doing(`write at ${offsetBytes}`, async () => {
      let done = 0;
      while (done < data.length) {
        const { bytesWritten } = await this.#file.write(data, done, data.length - done, offsetBytes + done);
        done += bytesWritten;
      }
    });
  }

  /** Without a trip through the thread pool: for the little that the machine's resumption waits for. @throws DISK_WRITE_FAILED */
  writeNow(data: Buffer, offsetBytes: number): void {
    try {
      let done = 0;
      while (done < data.length) {
        done += writeSync(this.#file.fd, data, done, data.length - done, offsetBytes + done);
      }
    } catch (cause) {
      throw fail('DISK_WRITE_FAILED', `write at ${offsetBytes}`, { cause });
    }
  }

  /** @throws DISK_WRITE_FAILED */
  async sync(): Promise<void> {
    await this.#doing('fdatasync', () => this.#file.datasync());
  }

  /** Waits for what is under way. */
  async close(): Promise<void> {
    await this.#file.close();
  }

  async #doing(what: string, action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (cause) {
      throw fail('DISK_WRITE_FAILED', what, { cause });
    }
  }
}
