import { createHash } from 'node:crypto';
import { open, type FileHandle } from 'node:fs/promises';
import { COPY_CHUNK_BYTES } from './constants.ts';
import { fail } from './errors.ts';

/** How far a long operation is. */
export interface ImageProgress {
  readonly step: 'copy' | 'convert' | 'hash' | 'check' | 'index';
  readonly doneBytes: number;
  readonly totalBytes: number;
}
export interface LongCall {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ImageProgress) => void) | undefined;
}

const zeros = Buffer.alloc(COPY_CHUNK_BYTES);

/** Opens a regular file for reading. @throws IMAGE_MISSING_FILE */
export async function openRegular(path: string): Promise<{ file: FileHandle; sizeBytes: number }> {
  let file: FileHandle;
  try {
    file = await open(path, 'r');
  } catch (cause) {
    throw fail('IMAGE_MISSING_FILE', path, { cause, fields: { path } });
  }
  const stat = await file.stat();
  if (stat.isFile()) return { file, sizeBytes: stat.size };
  await file.close();
  throw fail('IMAGE_MISSING_FILE', `${path} is not a regular file`, { fields: { path } });
}

async function eachChunk(
  path: string,
  step: ImageProgress['step'],
  { signal, onProgress }: LongCall,
  visit: (chunk: Buffer, offsetBytes: number) => Promise<void> | void,
): Promise<number> {
  const { file, sizeBytes } = await openRegular(path);
  try {
    const buffer = Buffer.allocUnsafe(COPY_CHUNK_BYTES);
    let offset = 0;
    for (;;) {
      signal?.throwIfAborted();
      const { bytesRead } = await file.read(buffer, 0, COPY_CHUNK_BYTES, offset);
      if (bytesRead === 0) return offset;
      await visit(buffer.subarray(0, bytesRead), offset);
      offset += bytesRead;
      onProgress?.({ step, doneBytes: offset, totalBytes: Math.max(sizeBytes, offset) });
    }
  } finally {
    await file.close();
  }
}

/** SHA-256 of a file, in pieces, so that the event loop stays free. @throws IMAGE_MISSING_FILE */
export async function hashFile(
  path: string,
  call: LongCall = {},
): Promise<{ sha256: string; fileBytes: number }> {
  const hash = createHash('sha256');
  const fileBytes = await eachChunk(path, 'hash', call, (chunk) => {
    hash.update(chunk);
  });
  return { sha256: hash.digest('hex'), fileBytes };
}

/** Copies a file, leaving holes where it holds only zeros, and hashes what it copied. @throws IMAGE_MISSING_FILE */
export async function copyAndHash(
  from: string,
  to: string,
  call: LongCall = {},
): Promise<{ sha256: string; fileBytes: number }> {
  const hash = createHash('sha256');
  const target = await open(to, 'wx', 0o644);
  try {
    const fileBytes = await eachChunk(from, 'copy', call, async (chunk, offset) => {
      hash.update(chunk);
      if (chunk.equals(zeros.subarray(0, chunk.length))) return;
      await target.write(chunk, 0, chunk.length, offset);
    });
    await target.truncate(fileBytes);
    await target.sync();
    return { sha256: hash.digest('hex'), fileBytes };
  } finally {
    await target.close();
  }
}
