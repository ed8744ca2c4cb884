import type { Socket } from 'node:net';
import type { Lane, MessageHandler } from '../../link/types.ts';
import type { DiskLink } from '../../migration/disk/index.ts';

const HEADER_BYTES = 6;

/**
 * What one would write first: one plain TCP connection, messages in the order in which they were sent, flow control by
 * the kernel's buffers alone. No credits, no lanes, no TLS.
 */
export class FifoLink implements DiskLink {
  readonly #socket: Socket;
  readonly #onMessage: MessageHandler;
  #rest: Buffer = Buffer.alloc(0);

  constructor(socket: Socket, onMessage: MessageHandler) {
    this.#socket = socket;
    this.#onMessage = onMessage;
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
  }

  async send(lane: Lane, type: number, payload: Buffer): Promise<void> {
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt32BE(payload.length, 0);
    header.writeUInt8(type, 4);
    header.writeUInt8(lane === 'urgent' ? 1 : 0, 5);
    this.#socket.write(header);
    if (this.#socket.write(payload)) return;
    // only a push waits for room; what is urgent joins the queue at once
    if (lane === 'bulk') await new Promise<void>((resolve) => this.#socket.once('drain', resolve));
  }

  #take(chunk: Buffer): void {
    let data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    while (data.length >= HEADER_BYTES) {
      const end = HEADER_BYTES + data.readUInt32BE(0);
      if (data.length < end) break;
      const lane = data.readUInt8(5) === 1 ? 'urgent' : 'bulk';
      void this.#onMessage(data.readUInt8(4), Buffer.from(data.subarray(HEADER_BYTES, end)), lane);
      data = data.subarray(end);
    }
    this.#rest = Buffer.from(data);
  }
}
