import { open } from 'node:fs/promises';
import { QEMU_LOG_TAIL_BYTES } from './constants.ts';

/** End of a log file, from `fromBytes` on, at most `maxBytes`; empty if there is no such file. */
export async function logTail(path: string, fromBytes = 0, maxBytes = QEMU_LOG_TAIL_BYTES): Promise<string> {
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path, 'r');
  } catch {
    return '';
  }
  try {
    const { size } = await file.stat();
    const start = Math.max(fromBytes, size - maxBytes, 0);
    const buffer = Buffer.alloc(Math.max(0, size - start));
    const { bytesRead } = await file.read(buffer, 0, buffer.length, start);
    return buffer.toString('utf8', 0, bytesRead).trim();
  } finally {
    await file.close();
  }
}
