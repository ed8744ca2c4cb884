import { fail as wireFail } from '../wire/nbd/errors.ts';
import type { ReplyAssembly } from '../wire/nbd/assembly.ts';
import { COMMAND } from '../wire/nbd/constants.ts';
import { encodeRequest } from '../wire/nbd/encode.ts';
import type { Chunk, ChunkHeader, SimpleReply } from '../wire/nbd/frames.ts';
import type { ReplyOracle } from '../wire/nbd/reply-parser.ts';
import type { BatchWriter } from './batch-writer.ts';
import { fail } from './errors.ts';

export interface QueueLimits {
  readonly maxInFlightRequests: number;
  readonly maxInFlightBytes: number;
  readonly maxQueuedRequests: number;
}

/** A request before it has a cookie. */
export interface Order<T> {
  readonly command: number;
  readonly flags: number;
  readonly offset: number;
  readonly lengthBytes: number;
  readonly payload: Buffer | undefined;
  readonly assembly: ReplyAssembly<T>;
}

interface Entry {
  readonly order: Order<unknown>;
  readonly bytes: number;
  /** Settles the caller's promise; does nothing when the caller has given up. */
  settle: (outcome: Error | undefined) => void;
}

/**
 * Requests on the wire and those waiting for their turn. A caller may give up at any time: one that waits is dropped,
 * one on the wire keeps its place until its answer has come, because the protocol cannot take it back.
 */
export class RequestQueue implements ReplyOracle {
  readonly #writer: BatchWriter;
  readonly #limits: QueueLimits;
  readonly #inFlight = new Map<bigint, Entry>();
  readonly #waiting = new Set<Entry>();
  #inFlightBytes = 0;
  #lastCookie = 0n;
  #ended: Error | undefined;
  #onIdle: (() => void) | undefined;

  constructor(writer: BatchWriter, limits: QueueLimits) {
    this.#writer = writer;
    this.#limits = limits;
  }

  get size(): number {
    return this.#inFlight.size + this.#waiting.size;
  }

  /** Sends as soon as the limits allow. @throws NBD_QUEUE_FULL, the signal's reason, or why the connection ended */
  submit<T>(order: Order<T>, signal: AbortSignal | undefined): Promise<T> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error);
    if (this.#waiting.size >= this.#limits.maxQueuedRequests) {
      return Promise.reject(fail('NBD_QUEUE_FULL', `${this.#waiting.size} requests`));
    }
    return new Promise<T>((resolve, reject) => {
      const bytes = order.command === COMMAND.READ || order.command === COMMAND.WRITE ? order.lengthBytes : 0;
      const giveUp = () => {
        entry.settle(signal?.reason as Error);
        entry.settle = () => {};
        if (this.#waiting.delete(entry)) this.#checkIdle();
      };
      const entry: Entry = {
        order,
        bytes,
        settle: (outcome) => {
          signal?.removeEventListener('abort', giveUp);
          if (outcome !== undefined) reject(outcome);
          else {
            try {
              resolve(order.assembly.result());
            } catch (error) {
              reject(error);
            }
          }
        },
      };
      signal?.addEventListener('abort', giveUp, { once: true });
      this.#waiting.add(entry);
      this.#sendWaiting();
    });
  }

  /** Resolves when nothing is on the wire or waiting. */
  idle(): Promise<void> {
    if (this.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }

  /** Every call that has no answer yet, and every later one, ends with `cause`. */
  end(cause: Error): void {
    if (this.#ended !== undefined) return;
    this.#ended = cause;
    const entries = [...this.#inFlight.values(), ...this.#waiting];
    this.#inFlight.clear();
    this.#waiting.clear();
    for (const entry of entries) entry.settle(cause);
    this.#checkIdle();
  }

  simplePayloadBytes(cookie: bigint, error: number): number {
    return this.#find(cookie).order.assembly.simplePayloadBytes(error);
  }

  admitChunk(header: ChunkHeader): void {
    this.#find(header.cookie).order.assembly.admit(header);
  }

  /** @throws NBD_BAD_FRAME: the server broke the protocol */
  onReply(frame: SimpleReply | Chunk): void {
    const entry = this.#find(frame.cookie);
    if (!entry.order.assembly.accept(frame)) return;
    this.#inFlight.delete(frame.cookie);
    this.#inFlightBytes -= entry.bytes;
    entry.settle(undefined);
    this.#sendWaiting();
    this.#checkIdle();
  }

  #find(cookie: bigint): Entry {
    const entry = this.#inFlight.get(cookie);
    if (entry === undefined) throw wireFail('NBD_BAD_FRAME', `reply with cookie ${cookie}, not in flight`);
    return entry;
  }

  #sendWaiting(): void {
    for (const entry of this.#waiting) {
      if (this.#inFlight.size >= this.#limits.maxInFlightRequests) return;
      const tooMuch = this.#inFlightBytes + entry.bytes > this.#limits.maxInFlightBytes;
      if (tooMuch && this.#inFlight.size > 0) return;
      this.#waiting.delete(entry);
      this.#send(entry);
    }
  }

  #send(entry: Entry): void {
    const { command, flags, offset, lengthBytes, payload } = entry.order;
    this.#lastCookie += 1n;
    this.#inFlight.set(this.#lastCookie, entry);
    this.#inFlightBytes += entry.bytes;
    this.#writer.add(encodeRequest(command, flags, this.#lastCookie, offset, lengthBytes));
    if (payload !== undefined) this.#writer.add(payload);
    this.#writer.schedule();
  }

  #checkIdle(): void {
    if (this.size > 0) return;
    this.#onIdle?.();
    this.#onIdle = undefined;
  }
}
