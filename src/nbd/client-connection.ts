import { connect, type Socket } from 'node:net';
import { fail as wireFail } from '../wire/nbd/errors.ts';
import type { Chunk, ServerToClientFrame, SimpleReply } from '../wire/nbd/frames.ts';
import { type ReplyOracle, ReplyParser } from '../wire/nbd/reply-parser.ts';
import { describeAddress, type NbdAddress } from './address.ts';
import { BatchWriter } from './batch-writer.ts';
import { fail } from './errors.ts';

/** What takes over the connection when the handshake is done. */
export interface ReplyHandler extends ReplyOracle {
  /** One reply or chunk. Throwing ends the connection with that error. */
  onReply(frame: SimpleReply | Chunk): void;
  /** The connection is gone; called once. */
  onEnd(cause: Error): void;
}

/** The socket of a client: frames are pulled one by one during the handshake and pushed to a handler after it. */
export class ClientConnection {
  readonly parser: ReplyParser;
  readonly writer: BatchWriter;
  readonly #socket: Socket;
  #handler: ReplyHandler | undefined;
  #wake: (() => void) | undefined;
  #ended: Error | undefined;

  constructor(address: NbdAddress) {
    this.#socket = connect({ ...address, noDelay: true });
    this.writer = new BatchWriter(this.#socket);
    this.parser = new ReplyParser({
      simplePayloadBytes: (cookie, error) => this.#oracle().simplePayloadBytes(cookie, error),
      admitChunk: (header) => this.#oracle().admitChunk(header),
    });
    let connected = false;
    this.#socket.on('connect', () => {
      connected = true;
    });
    this.#socket.on('data', (chunk: Buffer) => {
      this.parser.push(chunk);
      if (this.#handler === undefined) this.#wake?.();
      else this.#deliver(this.#handler);
    });
    this.#socket.on('end', () => this.destroy(fail('NBD_CONNECTION_LOST', 'the server ended it')));
    this.#socket.on('error', (error: NodeJS.ErrnoException) => {
      const detail = `${describeAddress(address)}: ${error.code ?? error.message}`;
      const code = connected ? 'NBD_CONNECTION_LOST' : 'NBD_CONNECT_FAILED';
      this.destroy(fail(code, detail, { cause: error }));
    });
  }

  /** Why the connection is over. */
  get ended(): Error | undefined {
    return this.#ended;
  }

  /** The next frame of the handshake. Rejects with the cause when the connection ends. */
  async next(): Promise<ServerToClientFrame> {
    for (;;) {
      if (this.#ended !== undefined) throw this.#ended;
      const frame = this.parser.next();
      if (frame !== undefined) return frame;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  send(bytes: Buffer): void {
    this.writer.add(bytes);
    this.writer.flush();
  }

  /** From here on replies go to `handler`. */
  handOver(handler: ReplyHandler): void {
    this.#handler = handler;
    if (this.#ended !== undefined) handler.onEnd(this.#ended);
    else this.#deliver(handler);
  }

  /** Sends what is left and closes our direction; the server closes the other one. */
  end(): void {
    this.writer.flush();
    this.#socket.end();
  }

  /** Sends what is left and closes without waiting for the server. */
  leave(cause: Error): void {
    this.writer.flush();
    this.#socket.end(() => this.destroy(cause));
  }

  /** Ends the connection at once for the reason given. */
  destroy(cause: Error): void {
    if (this.#ended !== undefined) return;
    this.#ended = cause;
    this.#socket.destroy();
    this.#wake?.();
    this.#handler?.onEnd(cause);
  }

  #oracle(): ReplyOracle {
    if (this.#handler === undefined) throw wireFail('NBD_BAD_FRAME', 'a reply before any request');
    return this.#handler;
  }

  #deliver(handler: ReplyHandler): void {
    try {
      while (this.#ended === undefined) {
        const frame = this.parser.next();
        if (frame === undefined) return;
        if (frame.kind !== 'simple' && frame.kind !== 'chunk') {
          throw wireFail('NBD_BAD_FRAME', `${frame.kind} in the transmission phase`);
        }
        handler.onReply(frame);
      }
    } catch (error) {
      this.destroy(error as Error);
    }
  }
}
