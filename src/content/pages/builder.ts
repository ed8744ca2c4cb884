import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { HASH_BYTES, INDEX_MAX_ENTRIES, PAGE_BYTES, READ_CHUNK_BYTES } from './constants.ts';
import { pageHash } from './hash.ts';
import { encodePageIndex } from './page-index.ts';
import { PageTable } from './page-table.ts';

const zeros = Buffer.alloc(PAGE_BYTES);

/** Columns of an index that grow as pages come. */
class Columns {
  entries = 0;
  pages = new Uint32Array(1024);
  crcs = new Uint32Array(1024);
  hashes = Buffer.alloc(1024 * HASH_BYTES);
  readonly #table = new PageTable(1024);

  /** Adds a page unless its content is there, or too much is. */
  add(buf: Buffer, start: number, page: number): void {
    if (this.entries === INDEX_MAX_ENTRIES) return;
    if (buf.compare(zeros, 0, PAGE_BYTES, start, start + PAGE_BYTES) === 0) return;
    const crc = crc32(buf.subarray(start, start + PAGE_BYTES));
    if (this.#table.find(this, buf, start, crc) >= 0) return;
    this.#reserve();
    this.#table.reserve(this);
    this.#table.insert(crc, this.entries);
    this.pages[this.entries] = page;
    this.crcs[this.entries] = crc;
    this.hashes.write(pageHash(buf, start).slice(0, HASH_BYTES), this.entries * HASH_BYTES, 'latin1');
    this.entries++;
  }

  #reserve(): void {
    if (this.entries < this.pages.length) return;
    const [pages, crcs, hashes] = [this.pages, this.crcs, this.hashes];
    this.pages = new Uint32Array(2 * pages.length);
    this.pages.set(pages);
    this.crcs = new Uint32Array(2 * crcs.length);
    this.crcs.set(crcs);
    this.hashes = Buffer.alloc(2 * hashes.length);
    this.hashes.set(hashes);
  }
}

export interface IndexProgress {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((doneBytes: number, totalBytes: number) => void) | undefined;
}

/**
 * Reads a file and makes its page index. Takes about 3 s for 2 GB, in pieces of some milliseconds between which the
 * event loop runs: for a worker or a command, not for a control loop.
 */
export async function buildPageIndex(path: string, call: IndexProgress = {}): Promise<Buffer> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  const sha = createHash('sha256');
  const columns = new Columns();
  const buffer = Buffer.allocUnsafe(READ_CHUNK_BYTES);
  let offset = 0;
  let filled = 0;
  for (;;) {
    call.signal?.throwIfAborted();
    const { bytesRead } = await file.read(buffer, filled, buffer.length - filled, offset + filled);
    filled += bytesRead;
    if (bytesRead > 0 && filled < buffer.length) continue;
    sha.update(buffer.subarray(0, filled));
    for (let at = 0; at + PAGE_BYTES <= filled; at += PAGE_BYTES)
      columns.add(buffer, at, (offset + at) / PAGE_BYTES);
    offset += filled;
    call.onProgress?.(offset, size);
    if (filled < buffer.length) return encodePageIndex(columns, sha.digest(), offset);
    filled = 0;
  }
}
