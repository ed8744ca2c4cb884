import { ALLOCATION } from '../wire/nbd/constants.ts';
import type { NbdExtent } from '../wire/nbd/frames.ts';
import type { NbdBackend } from './backend.ts';

/** Serves a buffer: for small things that are in memory anyway, and for tests. */
export class MemoryBackend implements NbdBackend {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer, options: { readOnly?: boolean } = {}) {
    this.#bytes = bytes;
    this.sizeBytes = bytes.length;
    this.readOnly = options.readOnly ?? false;
  }

  read(offset: number, lengthBytes: number): Buffer {
    const part = this.#bytes.subarray(offset, offset + lengthBytes);
    return this.readOnly ? part : Buffer.from(part);
  }

  write(offset: number, data: Buffer): void {
    data.copy(this.#bytes, offset);
  }

  flush(): void {}

  trim(offset: number, lengthBytes: number): void {
    this.#bytes.fill(0, offset, offset + lengthBytes);
  }

  writeZeroes(offset: number, lengthBytes: number): void {
    this.#bytes.fill(0, offset, offset + lengthBytes);
  }

  /** Zero or not, in steps of 512 bytes. */
  extents(offset: number, lengthBytes: number): readonly NbdExtent[] {
    const extents: { offset: number; lengthBytes: number; flags: number }[] = [];
    const end = offset + lengthBytes;
    for (let at = offset; at < end; ) {
      const next = Math.min(end, at - (at % 512) + 512);
      const zero = this.#bytes.subarray(at, next).every((byte) => byte === 0);
      const flags = zero ? ALLOCATION.ZERO : 0;
      const last = extents.at(-1);
      if (last?.flags === flags) last.lengthBytes += next - at;
      else extents.push({ offset: at, lengthBytes: next - at, flags });
      at = next;
    }
    return extents;
  }
}
