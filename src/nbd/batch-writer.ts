import type { Socket } from 'node:net';
import { NBD_COALESCE_BYTES } from './constants.ts';

/**
 * Gathers what one tick has to say and hands it to the socket at once: small pieces are copied together, so sixteen
 * answers cost one system call; large ones are passed on as they are.
 */
export class BatchWriter {
  readonly #socket: Socket;
  #pieces: Buffer[] = [];
  #pendingBytes = 0;
  #scheduled = false;

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** Bytes that the peer has not taken yet, as far as this process knows. */
  get unsentBytes(): number {
    return this.#pendingBytes + this.#socket.writableLength;
  }

  add(piece: Buffer): void {
    this.#pieces.push(piece);
    this.#pendingBytes += piece.length;
    if (this.#pendingBytes >= NBD_COALESCE_BYTES) this.flush();
  }

  /** Flushes at the end of this tick, for answers that are not part of a batch. */
  schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    process.nextTick(() => {
      this.#scheduled = false;
      this.flush();
    });
  }

  flush(): void {
    const pieces = this.#pieces;
    if (pieces.length === 0) return;
    const bytes = this.#pendingBytes;
    this.#pieces = [];
    this.#pendingBytes = 0;
    if (!this.#socket.writable) return;
    const [only] = pieces;
    if (pieces.length === 1 && only !== undefined) this.#socket.write(only);
    else if (bytes <= 2 * NBD_COALESCE_BYTES) this.#socket.write(Buffer.concat(pieces, bytes));
    else {
      this.#socket.cork();
      for (const piece of pieces) this.#socket.write(piece);
      this.#socket.uncork();
    }
  }
}
