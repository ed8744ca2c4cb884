import { DATA_HEADER_BYTES } from '../wire/link/constants.ts';
import { type Message, MessageAssembler } from '../wire/link/assembler.ts';
import type { DataHeader } from '../wire/link/frames.ts';
import { MAX_UNHANDLED_BYTES, MAX_UNHANDLED_MESSAGES } from './constants.ts';
import { fail } from './errors.ts';
import type { Lane, MessageHandler } from './types.ts';

/** The receiving half of one lane: puts messages together and hands them to the handler, one after another. */
export class LaneReceiver {
  readonly #lane: Lane;
  readonly #assembler = new MessageAssembler();
  readonly #handler: MessageHandler;
  readonly #onHandled: () => void;
  readonly #onFailure: (cause: unknown) => void;
  #waiting: Message[] = [];
  #head = 0;
  #unhandledBytes = 0;
  #handling = false;
  #ended = false;
  #handledSeq = 0;

  bytesReceived = 0;
  messagesReceived = 0;

  constructor(
    lane: Lane,
    handler: MessageHandler,
    events: { onHandled: () => void; onFailure: (cause: unknown) => void },
  ) {
    this.#lane = lane;
    this.#handler = handler;
    this.#onHandled = events.onHandled;
    this.#onFailure = events.onFailure;
  }

  get receivedSeq(): number {
    return this.#assembler.receivedSeq;
  }
  get receivedOffsetBytes(): number {
    return this.#assembler.receivedOffsetBytes;
  }
  get handledSeq(): number {
    return this.#handledSeq;
  }

  /** @throws LINK_BAD_FRAME, LINK_FLOODED */
  data(header: DataHeader): void {
    if (
      this.#unhandledBytes + header.totalBytes > MAX_UNHANDLED_BYTES ||
      this.#waiting.length - this.#head > MAX_UNHANDLED_MESSAGES
    ) {
      throw fail('LINK_FLOODED', `${this.#unhandledBytes} bytes wait on the ${this.#lane} lane`);
    }
    this.bytesReceived += DATA_HEADER_BYTES;
    this.#received(this.#assembler.data(header));
  }

  piece(bytes: Buffer): void {
    this.bytesReceived += bytes.length;
    this.#received(this.#assembler.piece(bytes));
  }

  #received(message: Message | undefined): void {
    if (!message) return;
    this.messagesReceived += 1;
    this.#unhandledBytes += message.payload.length;
    this.#waiting.push(message);
    if (!this.#handling) this.#run();
  }

  /** Handles what waits. A handler that returns no promise costs no turn of the event loop. */
  #run(): void {
    while (!this.#ended) {
      const message = this.#waiting[this.#head];
      if (!message) break;
      this.#head += 1;
      if (this.#head >= 256) {
        this.#waiting.splice(0, this.#head);
        this.#head = 0;
      }
      this.#handling = true;
      let result: void | Promise<void>;
      try {
        result = this.#handler(message.type, message.payload, this.#lane);
      } catch (error) {
        this.#onFailure(error);
        return;
      }
      if (result !== undefined) {
        result.then(
          () => {
            this.#done(message);
            this.#run();
          },
          (error: unknown) => this.#onFailure(error),
        );
        return;
      }
      this.#done(message);
    }
  }

  #done(message: Message): void {
    this.#handling = false;
    this.#unhandledBytes -= message.payload.length;
    this.#handledSeq = message.seq;
    if (!this.#ended) this.#onHandled();
  }

  /** No further message is handled. */
  end(): void {
    this.#ended = true;
    this.#waiting = [];
    this.#head = 0;
  }
}
