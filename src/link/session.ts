import { randomBytes } from 'node:crypto';
import { INSTANCE_BYTES, LINK_VERSION, MAX_MESSAGE_BYTES } from '../wire/link/constants.ts';
import { CLOSE_REASON, type CloseFrame, type CloseReason, type HelloFrame } from '../wire/link/frames.ts';
import { abortable, withTimeout } from '../base/async.ts';
import { CloudapError, errorCode } from '../base/errors.ts';
import { monotonicMs } from './clock.ts';
import { CLOSE_LINGER_MS, CLOSE_TIMEOUT_MS, CONNECT_TIMEOUT_MS, LOSS_TIMEOUT_MS } from './constants.ts';
import { closeErrorOf, closeFrame, fail, failFrame, violationReason } from './errors.ts';
import { LaneLink } from './lane.ts';
import type { LaneConnection } from './lane-connection.ts';
import type { Lane, LinkSession, LinkState, LinkStats, MessageHandler } from './types.ts';
import { WindowModel } from './window.ts';

export interface SessionOptions {
  /** 1..64 printable ASCII characters, the same at both sides; never used again. */
  sessionId: string;
  /** This site. */
  siteId: string;
  /** The only site that may be at the other end. */
  expectedPeer: string;
  onMessage: MessageHandler;
  /** See LinkSession.setLossTimeout. */
  lossTimeoutMs?: number;
  /** How long the first connection may take, retries included; Infinity waits for ever. */
  connectTimeoutMs?: number;
  /** Aborts the session. */
  signal?: AbortSignal | undefined;
}

/** The only ways from state to state; `closed` is final. */
const NEXT: Readonly<Record<LinkState, readonly LinkState[]>> = {
  connecting: ['open', 'closed'],
  open: ['cut', 'closed'],
  cut: ['open', 'closed'],
  closed: [],
};
const LANES: readonly Lane[] = ['urgent', 'bulk'];

/** The longest time a Node timer can hold. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * A session apart from how its connections come about: dial.ts makes them, listener.ts receives them, and both
 * give them to `attach`.
 */
export class SessionCore implements LinkSession {
  readonly sessionId: string;
  readonly peerSiteId: string;
  readonly closed: Promise<void>;
  readonly #siteId: string;
  readonly #instance = randomBytes(INSTANCE_BYTES).toString('hex');
  readonly #lanes: Readonly<Record<Lane, LaneLink>>;
  readonly #model = new WindowModel();
  readonly #listeners = new Set<(state: LinkState) => void>();
  readonly #end = Promise.withResolvers<void>();
  readonly #firstOpen = Promise.withResolvers<void>();
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort: () => void;
  #state: LinkState = 'connecting';
  #peerInstance: string | undefined;
  #lossTimeoutMs: number;
  #downSinceMs = monotonicMs();
  #downTimer: NodeJS.Timeout | undefined;
  #connectTimeoutMs: number;
  #lastFailure: Error | undefined;
  #cuts = 0;
  #minRttMs: number | undefined;
  #clockOffsetMs: number | undefined;
  #closing: Promise<void> | undefined;
  #closeAgreed = Promise.withResolvers<void>();
  #saysDone = false;

  constructor(options: SessionOptions) {
    this.sessionId = options.sessionId;
    this.peerSiteId = options.expectedPeer;
    this.#siteId = options.siteId;
    this.#lossTimeoutMs = options.lossTimeoutMs ?? LOSS_TIMEOUT_MS;
    this.#connectTimeoutMs = options.connectTimeoutMs ?? CONNECT_TIMEOUT_MS;
    this.closed = this.#end.promise;
    this.closed.catch(() => {});
    this.#firstOpen.promise.catch(() => {});
    const lane = (name: Lane, model: WindowModel | undefined): LaneLink =>
      new LaneLink(name, options.onMessage, model, {
        lost: (cause) => this.#lost(cause),
        closed: (frame) => this.#peerClosed(frame),
        handlerFailed: (cause) =>
          this.abort(
            fail('LINK_HANDLER_FAILED', cause instanceof Error ? cause.message : String(cause), { cause }),
          ),
        roundTrip: (rttMs, offsetMs) => this.#roundTrip(rttMs, offsetMs),
      });
    this.#lanes = { urgent: lane('urgent', undefined), bulk: lane('bulk', this.#model) };
    this.#armDownTimer();
    this.#signal = options.signal;
    this.#onAbort = () => this.abort(this.#signal?.reason as Error);
    if (this.#signal?.aborted) queueMicrotask(this.#onAbort);
    else this.#signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  get state(): LinkState {
    return this.#state;
  }

  // --- what users call

  send(lane: Lane, type: number, payload: Buffer): Promise<void> {
    if (payload.length > MAX_MESSAGE_BYTES) {
      const fields = { lengthBytes: payload.length, limitBytes: MAX_MESSAGE_BYTES };
      return Promise.reject(failFrame('LINK_MESSAGE_TOO_LARGE', `${payload.length} bytes`, { fields }));
    }
    if (!Number.isInteger(type) || type < 1 || type > 255) {
      return Promise.reject(failFrame('LINK_BAD_ARGUMENT', `message type ${type}`));
    }
    if (this.#saysDone) return Promise.reject(fail('LINK_CLOSED', 'it is being closed'));
    return this.#lanes[lane].sender.send(type, payload);
  }

  drained(lane: Lane, signal?: AbortSignal): Promise<void> {
    return this.#lanes[lane].sender.drained(signal);
  }

  opened(signal?: AbortSignal): Promise<void> {
    return abortable(this.#firstOpen.promise, signal);
  }

  setLossTimeout(ms: number): void {
    this.#lossTimeoutMs = ms;
    this.#armDownTimer();
  }

  onStateChange(listener: (state: LinkState) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  stats(): LinkStats {
    const rate = this.#model.rate;
    return {
      urgent: this.#lanes.urgent.stats(),
      bulk: this.#lanes.bulk.stats(),
      minRttMs: smallest(this.#minRttMs, this.#model.minRttMs),
      rateMbit: rate === undefined ? undefined : (rate * 8) / 1000,
      clockOffsetMs: this.#clockOffsetMs,
      windowBytes: this.#model.windowBytes,
      cuts: this.#cuts,
    };
  }

  close(timeoutMs = CLOSE_TIMEOUT_MS): Promise<void> {
    if (this.#state === 'closed') return this.closed;
    this.#closing ??= this.#close(timeoutMs);
    return this.#closing;
  }

  async #close(timeoutMs: number): Promise<void> {
    const untilMs = monotonicMs() + timeoutMs;
    try {
      const drained = Promise.all(LANES.map((lane) => this.drained(lane)));
      await withTimeout(drained, timeoutMs, () => fail('LINK_CLOSE_TIMEOUT', `${timeoutMs} ms`));
    } catch (error) {
      // ended meanwhile: how it ended is what the caller hears
      if (this.#isClosed()) return this.closed;
      this.abort(error as Error);
      throw error;
    }
    if (this.#isClosed()) return this.closed;
    // everything was handled at the other side; telling it so is a courtesy, and is given up after the time
    this.#saysDone = true;
    this.#sayDone();
    const leftMs = Math.max(CLOSE_LINGER_MS, untilMs - monotonicMs());
    await withTimeout(Promise.race([this.#closeAgreed.promise, this.closed]), leftMs, () =>
      fail('LINK_CLOSE_TIMEOUT'),
    ).catch(() => {});
    this.#finish(undefined, undefined);
    return this.closed;
  }

  abort(reason: Error): void {
    this.#finish(reason, {
      kind: 'close',
      reason: CLOSE_REASON.ABORTED,
      code: errorCode(reason),
      text: reason instanceof Error ? reason.message : String(reason),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state !== 'closed') this.abort(fail('LINK_CLOSED', 'disposed'));
    await this.closed.catch(() => {});
  }

  // --- what dial.ts and listener.ts call

  /** What this side says first on a connection for `lane`. */
  helloFor(lane: Lane): HelloFrame {
    return {
      kind: 'hello',
      version: LINK_VERSION,
      lane,
      instance: this.#instance,
      peerInstance: this.#peerInstance,
      ...this.#lanes[lane].received,
      sessionId: this.sessionId,
      siteId: this.#siteId,
    };
  }

  /** An older connection of the lane ends: the peer has made a new one before we noticed that the old one is dead. */
  replace(lane: Lane): void {
    const old = this.#lanes[lane].detach();
    if (!old) return;
    old.destroy(fail('LINK_CONNECTION_LOST', 'replaced by a new connection'));
    this.#lost(fail('LINK_CONNECTION_LOST', 'replaced by a new connection'));
  }

  /** Why the peer's HELLO does not belong to this session, or undefined. */
  refusal(
    hello: HelloFrame,
    connectionPeer: string,
  ): { reason: CloseReason; error: CloudapError } | undefined {
    if (this.#state === 'closed' || hello.sessionId !== this.sessionId) {
      return { reason: CLOSE_REASON.SESSION_UNKNOWN, error: fail('LINK_SESSION_UNKNOWN', hello.sessionId) };
    }
    if (connectionPeer !== this.peerSiteId || hello.siteId !== connectionPeer) {
      const error = fail(
        'LINK_PEER_IDENTITY',
        `it is site ${connectionPeer}, expected was ${this.peerSiteId}`,
      );
      return { reason: CLOSE_REASON.WRONG_PEER, error };
    }
    const isOther =
      (this.#peerInstance !== undefined && hello.instance !== this.#peerInstance) ||
      (hello.peerInstance !== undefined && hello.peerInstance !== this.#instance);
    if (isOther) {
      const error = fail('LINK_CANNOT_RESUME', 'the process at the other side is a new one');
      return { reason: CLOSE_REASON.CANNOT_RESUME, error };
    }
    return undefined;
  }

  /** A connection for a lane is ready: its HELLO was accepted and ours is sent. @throws LINK_CANNOT_RESUME */
  attach(connection: LaneConnection, hello: HelloFrame): void {
    this.#peerInstance = hello.instance;
    if (!this.#lanes[hello.lane].attach(connection, hello)) {
      const error = fail(
        'LINK_CANNOT_RESUME',
        'the other side has what was never sent, or lacks what it handled',
      );
      connection.refuse(CLOSE_REASON.CANNOT_RESUME, error);
      throw error;
    }
    if (this.#saysDone) this.#sayDone();
    if (LANES.every((lane) => this.#lanes[lane].connection)) this.#transition('open');
  }

  /** An attempt to connect failed; the session goes on trying unless `isFatal`. */
  attemptFailed(cause: Error, isFatal: boolean): void {
    this.#lastFailure = cause;
    if (!isFatal || this.#state === 'closed') return;
    // we had agreed that everything is done, and the other side has gone already
    if (this.#saysDone && errorCode(cause) === 'LINK_SESSION_UNKNOWN') this.#closeAgreed.resolve();
    else this.#finish(cause, closeFrame(CLOSE_REASON.ABORTED, cause));
  }

  // --- events of lanes

  #lost(cause: Error): void {
    this.#lastFailure = cause;
    if (this.#state === 'closed') return;
    const violation = violationReason(cause);
    if (violation !== undefined) {
      this.#finish(cause, closeFrame(violation, cause));
      return;
    }
    if (this.#state === 'open') {
      this.#cuts += 1;
      this.#transition('cut');
    }
  }

  #peerClosed(frame: CloseFrame): void {
    if (frame.reason === CLOSE_REASON.DONE) {
      this.#closeAgreed.resolve();
      const answer: CloseFrame = { kind: 'close', reason: CLOSE_REASON.DONE, code: '', text: '' };
      this.#finish(undefined, this.#saysDone ? undefined : answer);
    } else this.#finish(closeErrorOf(frame), undefined);
  }

  #roundTrip(rttMs: number, clockOffsetMs: number): void {
    this.#model.rttSample(rttMs, monotonicMs());
    if (this.#minRttMs !== undefined && rttMs >= this.#minRttMs) return;
    this.#minRttMs = rttMs;
    this.#clockOffsetMs = clockOffsetMs;
  }

  // --- states

  #isClosed(): boolean {
    return this.#state === 'closed';
  }

  #transition(to: LinkState): void {
    if (!NEXT[this.#state].includes(to)) return;
    const from = this.#state;
    this.#state = to;
    if (to === 'cut') this.#downSinceMs = monotonicMs();
    if (from === 'connecting' && to === 'open') this.#firstOpen.resolve();
    this.#armDownTimer();
    for (const listener of this.#listeners) listener(to);
  }

  #armDownTimer(): void {
    clearTimeout(this.#downTimer);
    if (this.#state !== 'connecting' && this.#state !== 'cut') return;
    const limitMs = this.#state === 'cut' ? this.#lossTimeoutMs : this.#connectTimeoutMs;
    if (limitMs === Number.POSITIVE_INFINITY) return;
    const leftMs = this.#downSinceMs + limitMs - monotonicMs();
    this.#downTimer = setTimeout(() => this.#tooLong(limitMs), Math.min(MAX_TIMER_MS, Math.max(0, leftMs)));
  }

  #tooLong(limitMs: number): void {
    const cause = this.#lastFailure;
    const last = cause ? `; last: ${cause.message}` : '';
    const code = this.#state === 'cut' ? 'LINK_LOST' : 'LINK_UNREACHABLE';
    const error = fail(code, `${limitMs} ms${last}`, { cause, fields: { peer: this.peerSiteId } });
    this.#finish(error, closeFrame(CLOSE_REASON.ABORTED, error));
  }

  #sayDone(): void {
    this.#lanes.urgent.connection?.writeControl({
      kind: 'close',
      reason: CLOSE_REASON.DONE,
      code: '',
      text: '',
    });
  }

  /** The end: `cause` is undefined after an orderly one. Both connections get `frame`, then they go. */
  #finish(cause: Error | undefined, frame: CloseFrame | undefined): void {
    if (this.#state === 'closed') return;
    const forSenders =
      cause instanceof CloudapError && (cause.code === 'LINK_LOST' || cause.code === 'LINK_CLOSED')
        ? cause
        : fail('LINK_CLOSED', cause?.message ?? '', { cause });
    for (const name of LANES) {
      const lane = this.#lanes[name];
      const connection = lane.detach();
      lane.end(forSenders);
      if (frame) connection?.writeControl(frame);
      connection?.finish(forSenders, CLOSE_LINGER_MS);
    }
    this.#signal?.removeEventListener('abort', this.#onAbort);
    this.#transition('closed');
    if (cause) this.#end.reject(cause);
    else this.#end.resolve();
    this.#firstOpen.reject(forSenders);
  }
}

function smallest(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined || b === undefined ? (a ?? b) : Math.min(a, b);
}
