import type { TLSSocket } from 'node:tls';
import { encodeControl } from '../wire/link/encode.ts';
import { FrameParser } from '../wire/link/parser.ts';
import {
  CLOSE_REASON,
  type CloseReason,
  type ControlFrame,
  type DataHeader,
  type FrameSink,
  type HelloFrame,
} from '../wire/link/frames.ts';
import { monotonicMs } from './clock.ts';
import { CLOSE_LINGER_MS, SILENCE_MS } from './constants.ts';
import { closeFrame, fail, violationReason } from './errors.ts';
import type { FrameWriter } from './lane-sender.ts';
import { connectionLost, tlsFailure } from './tls.ts';

const CHECK_MS = 250;

/** Who receives what arrives on a connection. */
export interface ConnectionOwner {
  /** The first frame. It may hand the connection to another owner, which then gets what follows. */
  hello(frame: HelloFrame): void;
  data(header: DataHeader): void;
  piece(bytes: Buffer): void;
  control(frame: Exclude<ControlFrame, HelloFrame>): void;
  /** Exactly once, when the connection is gone; `cause` is an error of the peer's making, of the socket, or silence. */
  ended(cause: Error): void;
}

/**
 * One TLS connection of a lane: reads frames, writes frames, notices when it is dead. The peer's
 * HELLO comes first and once; any other order ends it.
 */
export class LaneConnection implements FrameWriter, FrameSink {
  readonly socket: TLSSocket;
  /** The site named by the peer's certificate. */
  readonly peerSiteId: string;
  readonly #parser = new FrameParser(this);
  owner: ConnectionOwner;
  #helloSeen = false;
  #ended: Error | undefined;
  #lastArrivalMs = monotonicMs();
  #lastCheckMs = monotonicMs();
  #timer: NodeJS.Timeout;

  constructor(socket: TLSSocket, peerSiteId: string, owner: ConnectionOwner) {
    this.socket = socket;
    this.peerSiteId = peerSiteId;
    this.owner = owner;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('error', (cause) => this.destroy(this.#helloSeen ? connectionLost(cause) : tlsFailure(cause)));
    socket.on('end', () => this.destroy(fail('LINK_CONNECTION_LOST', 'the peer closed it')));
    socket.on('close', () => this.destroy(fail('LINK_CONNECTION_LOST', 'closed')));
    this.#timer = setInterval(() => this.#check(), CHECK_MS);
  }

  get ended(): Error | undefined {
    return this.#ended;
  }

  control(frame: ControlFrame): void {
    if (frame.kind === 'hello') {
      if (this.#helloSeen) throw fail('LINK_PROTOCOL', 'a second HELLO');
      this.#helloSeen = true;
      this.owner.hello(frame);
    } else if (this.#helloSeen || frame.kind === 'close') this.owner.control(frame);
    else throw fail('LINK_PROTOCOL', `${frame.kind} before HELLO`);
  }

  data(header: DataHeader): void {
    if (!this.#helloSeen) throw fail('LINK_PROTOCOL', 'DATA before HELLO');
    if (!this.#ended) this.owner.data(header);
  }

  piece(bytes: Buffer): void {
    if (!this.#ended) this.owner.piece(bytes);
  }

  #read(chunk: Buffer): void {
    if (this.#ended) return;
    this.#lastArrivalMs = monotonicMs();
    try {
      this.#parser.push(chunk);
    } catch (cause) {
      // the peer broke the protocol: it is told how, then this connection and its session are over
      const error = cause as Error;
      this.refuse(violationReason(error) ?? CLOSE_REASON.PROTOCOL, error);
    }
  }

  #check(): void {
    const nowMs = monotonicMs();
    // a check that comes late means that this process did not run, so that nothing could arrive
    if (nowMs - this.#lastCheckMs > 4 * CHECK_MS) this.#lastArrivalMs = nowMs;
    this.#lastCheckMs = nowMs;
    if (nowMs - this.#lastArrivalMs > SILENCE_MS) {
      this.destroy(fail('LINK_CONNECTION_LOST', `nothing arrived for ${SILENCE_MS} ms`));
    }
  }

  writeData(header: Buffer, piece: Buffer): void {
    if (this.#ended) return;
    this.socket.write(header);
    if (piece.length > 0) this.socket.write(piece);
  }

  writeControl(frame: ControlFrame): void {
    if (!this.#ended) this.socket.write(encodeControl(frame));
  }

  cork(): void {
    this.socket.cork();
  }
  uncork(): void {
    this.socket.uncork();
  }

  /** Tells the peer why, and ends. */
  refuse(reason: CloseReason, error: Error): void {
    this.writeControl(closeFrame(reason, error));
    this.finish(error, CLOSE_LINGER_MS);
  }

  /** Sends what was written, and ends; the socket goes when the peer has ended too, or after `lingerMs`. */
  finish(cause: Error, lingerMs: number): void {
    if (this.#ended) return;
    this.#setEnded(cause);
    this.socket.end();
    const timer = setTimeout(() => this.socket.destroy(), lingerMs);
    this.socket.once('close', () => clearTimeout(timer));
    this.owner.ended(cause);
  }

  destroy(cause: Error): void {
    if (this.#ended) return;
    this.#setEnded(cause);
    this.socket.destroy();
    this.owner.ended(cause);
  }

  #setEnded(cause: Error): void {
    this.#ended = cause;
    clearInterval(this.#timer);
  }
}
