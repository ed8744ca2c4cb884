import type {
  AckFrame,
  CloseFrame,
  ControlFrame,
  DataHeader,
  HelloFrame,
  PongFrame,
} from '../wire/link/frames.ts';
import { DATA_HEADER_BYTES } from '../wire/link/constants.ts';
import { wallClockUs } from './clock.ts';
import { PING_BURST, PING_INTERVAL_MS } from './constants.ts';
import { fail } from './errors.ts';
import type { ConnectionOwner, LaneConnection } from './lane-connection.ts';
import { LaneReceiver } from './lane-receiver.ts';
import { LaneSender } from './lane-sender.ts';
import type { Lane, LaneStats, MessageHandler } from './types.ts';
import type { WindowModel } from './window.ts';

export interface LaneEvents {
  /** The lane's connection has gone. */
  lost(cause: Error): void;
  /** The peer ended the session. */
  closed(frame: CloseFrame): void;
  /** The handler threw: the session cannot go on without a gap. */
  handlerFailed(cause: unknown): void;
  /** A round trip, and the far clock minus ours by it. */
  roundTrip(rttMs: number, clockOffsetMs: number): void;
}

/** One lane of a session: both halves, and whatever connection carries them now. */
export class LaneLink implements ConnectionOwner {
  readonly sender: LaneSender;
  readonly #receiver: LaneReceiver;
  readonly #events: LaneEvents;
  #connection: LaneConnection | undefined;
  #arrivedBytes = 0;
  #arrivedAtUs = 0;
  #ackDue: NodeJS.Immediate | undefined;
  #pingTimer: NodeJS.Timeout | undefined;
  #burstLeft = 0;

  constructor(lane: Lane, handler: MessageHandler, model: WindowModel | undefined, events: LaneEvents) {
    this.sender = new LaneSender(lane, model);
    this.#events = events;
    this.#receiver = new LaneReceiver(lane, handler, {
      onHandled: () => this.#oweAck(),
      onFailure: (cause) => events.handlerFailed(cause),
    });
  }

  get connection(): LaneConnection | undefined {
    return this.#connection;
  }
  get received(): { receivedSeq: number; receivedOffsetBytes: number } {
    return {
      receivedSeq: this.#receiver.receivedSeq,
      receivedOffsetBytes: this.#receiver.receivedOffsetBytes,
    };
  }

  /** Goes on over `connection`, whose other end has what `hello` says. Returns false if that cannot be. */
  attach(connection: LaneConnection, hello: HelloFrame): boolean {
    this.detach();
    this.#connection = connection;
    this.#arrivedBytes = 0;
    this.#arrivedAtUs = wallClockUs();
    connection.owner = this;
    if (!this.sender.attach(connection, hello.receivedSeq, hello.receivedOffsetBytes)) {
      this.detach();
      return false;
    }
    this.#oweAck();
    this.#burstLeft = PING_BURST - 1;
    this.#ping();
    this.#pingTimer = setInterval(() => this.#ping(), PING_INTERVAL_MS);
    return true;
  }

  /** Lets go of the connection without ending it. */
  detach(): LaneConnection | undefined {
    const connection = this.#connection;
    this.#connection = undefined;
    if (connection) connection.owner = nobody;
    clearInterval(this.#pingTimer);
    if (this.#ackDue) clearImmediate(this.#ackDue);
    this.#ackDue = undefined;
    this.sender.detach();
    return connection;
  }

  hello(): void {
    throw fail('LINK_PROTOCOL', 'a second HELLO');
  }

  data(header: DataHeader): void {
    this.#arrivedBytes += DATA_HEADER_BYTES;
    this.#arrivedAtUs = wallClockUs();
    this.#oweAck();
    this.#receiver.data(header);
  }

  piece(bytes: Buffer): void {
    this.#arrivedBytes += bytes.length;
    this.#arrivedAtUs = wallClockUs();
    this.#oweAck();
    this.#receiver.piece(bytes);
  }

  control(frame: Exclude<ControlFrame, HelloFrame>): void {
    switch (frame.kind) {
      case 'ack':
        this.sender.acknowledged(frame satisfies AckFrame);
        return;
      case 'ping':
        this.#connection?.writeControl({ kind: 'pong', echoUs: frame.clockUs, clockUs: wallClockUs() });
        return;
      case 'pong':
        this.#pong(frame);
        return;
      case 'close':
        this.#events.closed(frame);
    }
  }

  ended(cause: Error): void {
    this.detach();
    this.#events.lost(cause);
  }

  #ping(): void {
    this.#connection?.writeControl({ kind: 'ping', clockUs: wallClockUs() });
  }

  #pong(frame: PongFrame): void {
    const nowUs = wallClockUs();
    const rttUs = nowUs - frame.echoUs;
    if (rttUs < 0) throw fail('LINK_PROTOCOL', 'an answer to a PING of the future');
    this.#events.roundTrip(rttUs / 1000, (frame.clockUs + rttUs / 2 - nowUs) / 1000);
    if (this.#burstLeft > 0) {
      this.#burstLeft -= 1;
      this.#ping();
    }
  }

  /** One ACK for all that happens in this turn of the event loop. */
  #oweAck(): void {
    if (this.#ackDue || !this.#connection) return;
    this.#ackDue = setImmediate(() => {
      this.#ackDue = undefined;
      this.#connection?.writeControl({
        kind: 'ack',
        receivedBytes: this.#arrivedBytes,
        arrivedAtUs: this.#arrivedAtUs,
        handledSeq: this.#receiver.handledSeq,
      });
    });
  }

  /** No message is handled or accepted for sending any more. */
  end(reason: Error): void {
    this.#receiver.end();
    this.sender.end(reason);
  }

  stats(): LaneStats {
    return {
      bytesSent: this.sender.bytesSent,
      bytesReceived: this.#receiver.bytesReceived,
      messagesSent: this.sender.messagesSent,
      messagesReceived: this.#receiver.messagesReceived,
      bytesInFlight: this.sender.bytesInFlight,
      bytesPending: this.sender.pendingBytes,
    };
  }
}

/** Owner of a connection that was given up and is about to go. */
const nobody: ConnectionOwner = {
  hello: () => {},
  data: () => {},
  piece: () => {},
  control: () => {},
  ended: () => {},
};
