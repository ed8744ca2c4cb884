import type { Socket } from 'node:net';

/** Bytes of a channel that wait to be dealt with. */
const WAITING_BYTES = 256 * 1024;
/** More of them, for a request that stands behind: what QEMU may be about to write before it looks for requests again. */
const REQUEST_BYTES = 384 * 1024;
const REQUESTED_MAX_BYTES = 8 * 1024 * 1024;

/**
 * What QEMU writes, chunk by chunk, read ahead a little. QEMU looks for requests between two writes, and while it waits to
 * write it does not look: so `readOn` makes room, whether or not what is there has been dealt with.
 */
export class Chunks implements AsyncIterable<Buffer> {
  readonly #socket: Socket;
  #waiting: Buffer[] = [];
  #bytes = 0;
  #limitBytes = WAITING_BYTES;
  #ended = false;
  #error: Error | undefined;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#waiting.push(chunk);
      this.#bytes += chunk.length;
      if (this.#bytes >= this.#limitBytes) socket.pause();
      this.#wake?.();
    });
    socket.on('error', (error) => {
      this.#error ??= error;
    });
    socket.on('end', () => {
      this.#ended = true;
      this.#wake?.();
    });
    socket.on('close', () => {
      if (!this.#ended) this.#error ??= new Error('closed');
      this.#ended = true;
      this.#wake?.();
    });
  }

  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  /** QEMU has been asked for something. */
  readOn(): void {
    this.#limitBytes = Math.min(this.#bytes + REQUEST_BYTES, REQUESTED_MAX_BYTES);
    if (this.#bytes < this.#limitBytes) this.#socket.resume();
  }

  /** Ends with the socket; what came before its end comes out first. @throws its error */
  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for (;;) {
      const chunk = this.#waiting.shift();
      if (chunk) {
        this.#bytes -= chunk.length;
        this.#limitBytes = Math.max(WAITING_BYTES, Math.min(this.#limitBytes, this.#bytes + REQUEST_BYTES));
        if (this.#bytes < WAITING_BYTES) this.#socket.resume();
        yield chunk;
      } else if (this.#ended) {
        if (this.#error) throw this.#error;
        return;
      } else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
