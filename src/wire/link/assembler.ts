import { fail } from './errors.ts';
import type { DataHeader } from './frames.ts';

export interface Message {
  seq: number;
  type: number;
  payload: Buffer;
}

/**
 * Puts the pieces of one lane's messages together. It belongs to the session, not to a connection: after a cut the
 * next connection goes on at exactly the byte that is missing (`receivedSeq`, `receivedOffsetBytes`, told in HELLO).
 */
export class MessageAssembler {
  #receivedSeq = 0;
  #type = 0;
  #payload: Buffer | undefined;
  #filled = 0;

  /** Number of the last message received whole. */
  get receivedSeq(): number {
    return this.#receivedSeq;
  }

  /** Bytes received of the message after it. */
  get receivedOffsetBytes(): number {
    return this.#filled;
  }

  /** A DATA frame begins. Returns the message if that ends it, which is so for an empty one. @throws LINK_BAD_FRAME on a gap or a duplicate */
  data(header: DataHeader): Message | undefined {
    const { seq, type, totalBytes, offsetBytes } = header;
    const fits =
      seq === this.#receivedSeq + 1 &&
      offsetBytes === this.#filled &&
      (this.#payload === undefined || (this.#payload.length === totalBytes && this.#type === type));
    if (!fits) {
      throw fail('LINK_BAD_FRAME', `message ${seq} at byte ${offsetBytes} is not what comes next`, {
        fields: { seq, offsetBytes, expectedSeq: this.#receivedSeq + 1, expectedOffsetBytes: this.#filled },
      });
    }
    this.#type = type;
    this.#payload ??= Buffer.allocUnsafeSlow(totalBytes);
    return totalBytes === 0 ? this.#finish(this.#payload) : undefined;
  }

  /** Bytes of the current frame. Returns the message when it is complete. */
  piece(bytes: Buffer): Message | undefined {
    const payload = this.#payload;
    if (!payload || this.#filled + bytes.length > payload.length) {
      throw fail('LINK_BAD_FRAME', 'message bytes without a header');
    }
    bytes.copy(payload, this.#filled);
    this.#filled += bytes.length;
    return this.#filled === payload.length ? this.#finish(payload) : undefined;
  }

  #finish(payload: Buffer): Message {
    this.#receivedSeq += 1;
    this.#payload = undefined;
    this.#filled = 0;
    return { seq: this.#receivedSeq, type: this.#type, payload };
  }
}
