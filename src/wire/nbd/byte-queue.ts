/** Bytes as they arrive, handed out in the pieces that a parser asks for; copies only what crosses two arrivals. */
export class ByteQueue {
  readonly #chunks: Buffer[] = [];
  #headOffset = 0;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.#length += chunk.length;
  }

  /** The next `count` bytes, which the caller has checked to be there. The result may share memory with a chunk. */
  take(count: number): Buffer {
    const head = this.#chunks[0];
    this.#length -= count;
    if (head !== undefined && head.length - this.#headOffset >= count) {
      const start = this.#headOffset;
      const end = start + count;
      if (end === head.length) {
        this.#chunks.shift();
        this.#headOffset = 0;
      } else this.#headOffset = end;
      return head.subarray(start, end);
    }
    return this.#gather(count);
  }

  clear(): void {
    this.#chunks.length = 0;
    this.#headOffset = 0;
    this.#length = 0;
  }

  #gather(count: number): Buffer {
    const result = Buffer.allocUnsafe(count);
    let filled = 0;
    let used = 0;
    for (const chunk of this.#chunks) {
      if (filled === count) break;
      const start = used === 0 ? this.#headOffset : 0;
      const copied = chunk.copy(result, filled, start, Math.min(chunk.length, start + count - filled));
      filled += copied;
      if (start + copied < chunk.length) {
        this.#chunks.splice(0, used);
        this.#headOffset = start + copied;
        return result;
      }
      used += 1;
    }
    this.#chunks.splice(0, used);
    this.#headOffset = 0;
    return result;
  }
}
