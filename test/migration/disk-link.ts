import { setImmediate as tick } from 'node:timers/promises';
import type { Lane, LinkSession, LinkStats, MessageHandler } from '../../src/link/types.ts';

interface Message {
  type: number;
  payload: Buffer;
  sent: PromiseWithResolvers<void>;
}

/** A small seeded generator (mulberry32): 0 <= value < 1. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface FakeLinkOptions {
  /** Turns of the event loop that the next message of a lane waits; 0 by default. */
  delayTurns?: (lane: Lane, type: number) => number;
  /** Changes a message on its way, or swallows it. */
  tamper?: (type: number, payload: Buffer, lane: Lane) => Buffer | undefined;
  /** Bulk bytes that may be unacknowledged. */
  windowBytes?: number;
  /** Deliver the next message of a lane only when the one before has been handled, as the real link does. */
  oneAtATime?: boolean;
}

/** One end of a pair in memory: each lane ordered, lanes independent, acknowledged when handled. */
export class FakeLink implements LinkSession {
  readonly sessionId = 'fake';
  readonly peerSiteId = 'peer';
  state: LinkSession['state'] = 'open';
  readonly closed: Promise<void>;
  /** What the far side's handler has rejected with. */
  readonly refusals: unknown[] = [];
  readonly log: { lane: Lane; type: number }[] = [];
  readonly #closed = Promise.withResolvers<void>();
  readonly #options: FakeLinkOptions;
  readonly #queues = { urgent: [] as Message[], bulk: [] as Message[] };
  readonly #unacknowledged = { urgent: 0, bulk: 0 };
  readonly #running = { urgent: false, bulk: false };
  #waiters: (() => void)[] = [];
  #resume: PromiseWithResolvers<void> | undefined;
  #deliver: MessageHandler = () => undefined;

  constructor(options: FakeLinkOptions) {
    this.#options = options;
    this.closed = this.#closed.promise;
    this.closed.catch(() => undefined);
  }

  /** Where this end's messages go. */
  connect(handler: MessageHandler): void {
    this.#deliver = handler;
  }

  /** The connection is cut: nothing moves until it is resumed. */
  cut(): void {
    this.#resume ??= Promise.withResolvers<void>();
  }

  resume(): void {
    this.#resume?.resolve();
    this.#resume = undefined;
  }

  opened(): Promise<void> {
    return Promise.resolve();
  }

  async send(lane: Lane, type: number, payload: Buffer): Promise<void> {
    if (this.state === 'closed') throw new Error('the link is closed');
    const message = { type, payload, sent: Promise.withResolvers<void>() };
    this.log.push({ lane, type });
    this.#queues[lane].push(message);
    this.#unacknowledged[lane] += payload.length;
    if (!this.#running[lane]) void this.#run(lane);
    const window = lane === 'bulk' ? (this.#options.windowBytes ?? Infinity) : Infinity;
    while (this.#unacknowledged[lane] >= window) {
      await new Promise<void>((resolve) => {
        this.#waiters.push(resolve);
      });
    }
  }

  async drained(lane: Lane): Promise<void> {
    while (this.#unacknowledged[lane] > 0) await tick();
  }

  async #run(lane: Lane): Promise<void> {
    this.#running[lane] = true;
    for (let message = this.#queues[lane].shift(); message; message = this.#queues[lane].shift()) {
      const turns = this.#options.delayTurns?.(lane, message.type) ?? 0;
      for (let i = 0; i < turns; i++) await tick();
      await this.#resume?.promise;
      const handled = this.#handle(lane, message);
      if (this.#options.oneAtATime) await handled;
      else await tick();
    }
    this.#running[lane] = false;
  }

  async #handle(lane: Lane, { type, payload }: Message): Promise<void> {
    try {
      const arrived = this.#options.tamper ? this.#options.tamper(type, payload, lane) : payload;
      if (arrived) await this.#deliver(type, arrived, lane);
    } catch (error) {
      this.refusals.push(error);
    }
    this.#unacknowledged[lane] -= payload.length;
    for (const wake of this.#waiters.splice(0)) wake();
  }

  setLossTimeout(): void {}

  stats(): LinkStats {
    const lane = {
      bytesSent: 0,
      bytesReceived: 0,
      messagesSent: 0,
      messagesReceived: 0,
      bytesInFlight: 0,
      bytesPending: 0,
    };
    return {
      urgent: lane,
      bulk: lane,
      minRttMs: undefined,
      rateMbit: undefined,
      clockOffsetMs: undefined,
      windowBytes: 0,
      cuts: 0,
    };
  }

  onStateChange(): () => void {
    return () => undefined;
  }

  async close(): Promise<void> {
    this.state = 'closed';
    this.#closed.resolve();
  }

  abort(reason: Error): void {
    this.state = 'closed';
    this.#closed.reject(reason);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
