import { hash } from 'node:crypto';
import { HASH_BYTES, PAGE_BYTES } from './constants.ts';

/** SHA-256 of a page as latin-1 text, which Node makes faster than a buffer. */
export function pageHash(buf: Buffer, start: number): string {
  // Node takes every encoding of a buffer here; its types do not say so.
  return hash('sha256', buf.subarray(start, start + PAGE_BYTES), 'latin1' as 'hex');
}

/** Whether the entry's hash is the beginning of this one. */
export function hashMatches(hashes: Buffer, entry: number, text: string): boolean {
  const at = HASH_BYTES * entry;
  for (let i = 0; i < HASH_BYTES; i++) if (hashes[at + i] !== text.charCodeAt(i)) return false;
  return true;
}
