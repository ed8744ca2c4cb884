/**
 * Thread that reads pages of the files that both sites hold and verifies each against its index. Its file reads may
 * block, and its hashing takes as long as the source's: neither belongs on a mover's event loop.
 */
import { once } from 'node:events';
import { closeSync, openSync, readSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { errorCode } from '../../base/errors.ts';
import { HASH_BYTES, PAGE_BYTES } from './constants.ts';
import { hashMatches, pageHash } from './hash.ts';
import type { PageIndex } from './page-index.ts';
import type { ReadRequest, ReadWorkerStart } from './reader.ts';
import { loadPageIndex } from './store.ts';

interface Part {
  readonly fd: number;
  readonly index: PageIndex;
}

const opened = new Map<string, Part>();
const port = parentPort;
if (!port) throw new Error('this file is a worker');

/** Memory that both threads see. */
const slots: Buffer[] = [];
/** The files agreed on, in their order. */
let parts: readonly Part[] = [];

/** Given at its start, or later to one that waits. */
const { files } =
  (workerData as ReadWorkerStart | null) ?? ((await once(port, 'message')) as [ReadWorkerStart])[0];
const problems: { file: number; code: string; message: string }[] = [];
for (const [i, file] of files.entries()) {
  try {
    const index = await loadPageIndex(file);
    opened.set(index.digest, { index, fd: openSync(file.path, 'r') });
  } catch (error) {
    problems.push({ file: i, code: errorCode(error), message: (error as Error).message });
  }
}
port.on('message', (request: ReadRequest) => {
  if (request.kind === 'read') {
    const { id, ordinals, slot } = request;
    if (slot !== undefined) {
      const missing = read(ordinals, slots[slot] as Buffer);
      port.postMessage({ kind: 'read', id, bodies: undefined, missing });
      return;
    }
    const bodies = Buffer.from(new ArrayBuffer(ordinals.length * PAGE_BYTES));
    const missing = read(ordinals, bodies);
    port.postMessage({ kind: 'read', id, bodies, missing }, [bodies.buffer]);
    return;
  }
  if (request.kind === 'slot') {
    slots.push(Buffer.from(request.memory));
    return;
  }
  parts = request.digests.flatMap((digest) => opened.get(digest) ?? []);
  for (const part of opened.values()) if (!parts.includes(part)) closeSync(part.fd);
});
const indexes = [...opened.values()].map(({ index: { digest, entries } }) => ({ digest, entries }));
port.postMessage({ kind: 'open', indexes, problems });

/** Fills `out` with the pages; positions of those that could not be had as they should be. */
function read(ordinals: Float64Array, out: Buffer): Uint32Array {
  const missing: number[] = [];
  for (let i = 0; i < ordinals.length; ) {
    const found = locate(ordinals[i] as number);
    if (!found) {
      missing.push(i++);
      continue;
    }
    const { part, ordinal } = found;
    const { pages, hashes } = part.index;
    // One read for pages that are neighbours in the file.
    const first = pages[ordinal] as number;
    let count = 1;
    while (
      i + count < ordinals.length &&
      ordinals[i + count] === (ordinals[i] as number) + count &&
      pages[ordinal + count] === first + count
    )
      count++;
    const bytesRead = tryRead(part.fd, out, i * PAGE_BYTES, count * PAGE_BYTES, first * PAGE_BYTES);
    for (let k = 0; k < count; k++, i++) {
      const at = i * PAGE_BYTES;
      const whole = (k + 1) * PAGE_BYTES <= bytesRead && hashes.length >= (ordinal + k + 1) * HASH_BYTES;
      if (!whole || !hashMatches(hashes, ordinal + k, pageHash(out, at))) missing.push(i);
    }
  }
  return Uint32Array.from(missing);
}

/** Bytes that could be read; 0 where the file has an error there. */
function tryRead(fd: number, out: Buffer, at: number, lengthBytes: number, position: number): number {
  let filled = 0;
  try {
    while (filled < lengthBytes) {
      const bytesRead = readSync(fd, out, at + filled, lengthBytes - filled, position + filled);
      if (bytesRead === 0) break;
      filled += bytesRead;
    }
  } catch {
    // A bad sector: what was read before it counts.
  }
  return filled;
}

function locate(number: number): { part: Part; ordinal: number } | undefined {
  let ordinal = number;
  for (const part of parts) {
    if (ordinal < part.index.entries) return { part, ordinal };
    ordinal -= part.index.entries;
  }
  return undefined;
}
