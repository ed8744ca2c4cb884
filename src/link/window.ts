import {
  AGGREGATION_MAX_MS,
  FRAGMENT_MIN_BYTES,
  MIN_RTT_EXPIRY_MS,
  PROBE_EVERY_ROUNDS,
  QUEUE_TARGET_MS,
  RATE_FILTER_ROUNDS,
  SLACK_MAX_MS,
  WINDOW_MAX_BYTES,
  WINDOW_MIN_BYTES,
  WINDOW_START_BYTES,
} from './constants.ts';
import { MAX_FRAGMENT_BYTES } from '../wire/link/constants.ts';

/** By so much the window is raised to probe. */
const PROBE_MS = QUEUE_TARGET_MS / 2;
/** A link that has become slower is seen as such in so many rounds. */
const FORGET_ROUNDS = 3;
/** Of what the window is to gain, so many times as much a round trip: 1 - 1/e^2 of it. */
const GROWTH_A_ROUND = 2;

/** What was known when a piece was sent; from it and its acknowledgement come one round trip and one rate sample. */
interface SentPiece {
  endBytes: number;
  sentAtMs: number;
  deliveredBytes: number;
  /** Receiver's clock when `deliveredBytes` had arrived; undefined when nothing was on its way, so that idle time never counts. */
  deliveredAtUs: number | undefined;
  /** When the newest piece delivered so far had been sent. */
  deliveredSentAtMs: number;
  appLimited: boolean;
}

/**
 * How many bulk bytes may be on their way: delivery rate x (minimal round trip + QUEUE_TARGET_MS). After BBR
 * (Cardwell et al., ACM Queue 2016): the rate is the maximum over some round trips, the round trip the minimum over
 * ten seconds, measured anew with the queue drained; a start-up phase doubles until the rate grows no more. BBR
 * paces and lets queues of one more bandwidth-delay product grow; here TCP sends and the window alone bounds the
 * queue to a few milliseconds.
 *
 * `slackMs` covers delay that is no queue (jitter, a late scheduler): without it such delay would read as a lower
 * rate, which makes a smaller window, which reads as a still lower rate. Each PROBE_EVERY_ROUNDS round trips the
 * window is raised for one; where the rate follows, the window was what limited it, and the slack grows; where it
 * does not, the link was, and the slack shrinks.
 */
export class WindowModel {
  #phase: 'startup' | 'steady' | 'probe' | 'empty' = 'startup';
  #windowBytes = WINDOW_START_BYTES;
  #pieces: SentPiece[] = [];
  #head = 0;

  #sentBytes = 0;
  #deliveredBytes = 0;
  #deliveredAtUs: number | undefined;
  #deliveredSentAtMs = 0;
  #appLimitedUntil = 0;

  #round = 0;
  #roundEndBytes = 0;
  #roundMinRttMs = Number.POSITIVE_INFINITY;
  #roundRate = 0;
  #rateByRound: { round: number; rate: number }[] = [];
  #startupBestRate = 0;
  #startupFlatRounds = 0;
  #phaseEndRound = 0;
  #nextProbeRound = 0;
  #beforeProbeRate = 0;
  #slackMs = 0;
  /** Rounds in a row whose queue made us forget what the rate was. */
  #forgotten = 0;
  #emptyHoldMs = 0;
  #burstFromMs = 0;
  #burstBytes = 0;
  #roundBurstBytes = 0;
  /** Smoothed: a rare long pause costs a little rate then, and not all urgent messages their time. */
  #burstMs = 0;

  #minRttMs: number | undefined;
  #minRttAtMs = 0;

  get windowBytes(): number {
    return this.#windowBytes;
  }
  get inFlightBytes(): number {
    return this.#sentBytes - this.#deliveredBytes;
  }
  get minRttMs(): number | undefined {
    return this.#minRttMs;
  }
  /** Bytes a millisecond, or undefined before the first sample. */
  get rate(): number | undefined {
    return this.#rateByRound[0]?.rate;
  }
  get phase(): string {
    return this.#phase;
  }
  get burstMs(): number {
    return this.#burstMs;
  }
  get slackMs(): number {
    return this.#slackMs;
  }

  /** Some eight pieces to a window, and none longer than half the queue that is aimed at. */
  get fragmentBytes(): number {
    const eighth = Math.floor(this.#windowBytes / 8 / 1024) * 1024;
    const { rate } = this;
    const halfQueue = rate === undefined ? MAX_FRAGMENT_BYTES : Math.round((rate * QUEUE_TARGET_MS) / 2);
    return Math.min(MAX_FRAGMENT_BYTES, Math.max(FRAGMENT_MIN_BYTES, Math.min(eighth, halfQueue)));
  }

  /** True if `bytes` more may be sent. One piece may always be on its way, however small the window is. */
  allows(bytes: number): boolean {
    return this.inFlightBytes === 0 || this.inFlightBytes + bytes <= this.#windowBytes;
  }

  /** A connection was lost or made: nothing is on its way. What was learnt about the link is kept. */
  reset(): void {
    this.#pieces = [];
    this.#head = 0;
    this.#sentBytes = 0;
    this.#deliveredBytes = 0;
    this.#deliveredAtUs = undefined;
    this.#appLimitedUntil = 0;
    this.#roundEndBytes = 0;
  }

  sent(bytes: number, nowMs: number): void {
    const idle = this.inFlightBytes === 0;
    if (idle) {
      this.#deliveredSentAtMs = nowMs;
      this.#deliveredAtUs = undefined;
    }
    this.#sentBytes += bytes;
    this.#pieces.push({
      endBytes: this.#sentBytes,
      sentAtMs: nowMs,
      deliveredBytes: this.#deliveredBytes,
      deliveredAtUs: this.#deliveredAtUs,
      deliveredSentAtMs: this.#deliveredSentAtMs,
      appLimited: this.#deliveredBytes < this.#appLimitedUntil,
    });
  }

  /** There is nothing more to send although the window would allow it: samples until then say nothing about the link. */
  appLimited(): void {
    if (this.inFlightBytes < this.#windowBytes) this.#appLimitedUntil = this.#sentBytes;
  }

  /** The peer has `receivedBytes` of this connection. Returns false if that cannot be. */
  delivered(receivedBytes: number, arrivedAtUs: number, nowMs: number): boolean {
    if (receivedBytes < this.#deliveredBytes || receivedBytes > this.#sentBytes) return false;
    if (receivedBytes === this.#deliveredBytes) return true;
    const growth = receivedBytes - this.#deliveredBytes;
    this.#deliveredBytes = receivedBytes;
    this.#deliveredAtUs = arrivedAtUs;
    let newest: SentPiece | undefined;
    for (;;) {
      const piece = this.#pieces[this.#head];
      if (!piece || piece.endBytes > receivedBytes) break;
      newest = piece;
      this.#head += 1;
    }
    if (this.#head > 1024) {
      this.#pieces.splice(0, this.#head);
      this.#head = 0;
    }
    if (newest) this.#sample(newest, arrivedAtUs, nowMs);
    this.#aggregation(growth, nowMs);
    if (this.#phase === 'startup') this.#grow(growth);
    else this.#apply(growth);
    return true;
  }

  /** A round trip measured by other means (PING), which counts like one of a piece. */
  rttSample(rttMs: number, nowMs: number): void {
    this.#roundMinRttMs = Math.min(this.#roundMinRttMs, rttMs);
    if (this.#minRttMs === undefined || rttMs < this.#minRttMs) this.#minRttMs = rttMs;
    if (rttMs <= this.#minRttMs * 1.02) this.#minRttAtMs = nowMs;
  }

  #sample(piece: SentPiece, arrivedAtUs: number, nowMs: number): void {
    this.rttSample(Math.max(0.01, nowMs - piece.sentAtMs), nowMs);
    this.#deliveredSentAtMs = piece.sentAtMs;
    if (piece.deliveredAtUs !== undefined) {
      const arrivalMs = (arrivedAtUs - piece.deliveredAtUs) / 1000;
      const sendMs = piece.sentAtMs - piece.deliveredSentAtMs;
      const elapsedMs = Math.max(arrivalMs, sendMs);
      const bytes = this.#deliveredBytes - piece.deliveredBytes;
      // shorter than the round trip: an artefact of batching
      if (elapsedMs > 0.05 && elapsedMs >= (this.#minRttMs ?? 0) * 0.9) {
        const rate = bytes / elapsedMs;
        if (!piece.appLimited || rate > (this.rate ?? 0)) this.#rateSample(rate);
      }
    }
    if (piece.deliveredBytes >= this.#roundEndBytes) {
      this.#roundEndBytes = this.#deliveredBytes;
      this.#roundEnded(nowMs, piece.appLimited);
    }
  }

  #rateSample(rate: number): void {
    this.#roundRate = Math.max(this.#roundRate, rate);
    const samples = this.#rateByRound;
    while (samples.length > 0 && (samples.at(-1)?.rate ?? 0) <= rate) samples.pop();
    samples.push({ round: this.#round, rate });
  }

  #roundEnded(nowMs: number, appLimited: boolean): void {
    this.#round += 1;
    const roundRate = this.#roundRate;
    const roundMinRttMs = this.#roundMinRttMs;
    this.#smoothBursts(nowMs);
    this.#roundRate = 0;
    this.#roundMinRttMs = Number.POSITIVE_INFINITY;
    while (
      this.#rateByRound.length > 1 &&
      (this.#rateByRound[0]?.round ?? 0) < this.#round - RATE_FILTER_ROUNDS
    ) {
      this.#rateByRound.shift();
    }
    if (this.#phase === 'startup') {
      if (!appLimited) this.#startupRound(roundRate, roundMinRttMs);
      return;
    }
    this.#forgetRates(roundRate, roundMinRttMs);
    if (this.#round < this.#phaseEndRound || appLimited) return;
    if (this.#phase === 'probe') this.#probeEnded(roundRate);
    else if (this.#phase === 'empty') this.#minRttAtMs = nowMs;
    if (this.#phase === 'steady' && nowMs - this.#minRttAtMs > MIN_RTT_EXPIRY_MS) {
      this.#measureEmpty();
      this.#minRttMs = roundMinRttMs;
    } else if (this.#phase === 'steady' && this.#round >= this.#nextProbeRound) {
      this.#beforeProbeRate = roundRate;
      this.#enter('probe', 2);
    } else if (this.#phase !== 'steady') this.#enter('steady', 1);
  }

  /**
   * A queue that stood throughout the round, longer than the window was to make it: the link has become slower, and what
   * it was before does not count. If it stands nevertheless, it is not ours: giving way to whoever fills it would not end.
   */
  #forgetRates(roundRate: number, roundMinRttMs: number): void {
    const queueMs = roundMinRttMs - (this.#minRttMs ?? roundMinRttMs);
    if (!(queueMs > this.#slackMs + this.#burstMs + 3 * QUEUE_TARGET_MS)) {
      this.#forgotten = 0;
      return;
    }
    if (roundRate === 0 || this.#forgotten === FORGET_ROUNDS) return;
    this.#forgotten += 1;
    this.#rateByRound = [{ round: this.#round, rate: roundRate }];
  }

  /** The next rounds run with an empty queue, and show the minimal round trip. */
  #measureEmpty(): void {
    this.#emptyHoldMs = this.#emptyMs();
    this.#enter('empty', 3);
  }

  /** What to hold so that the queue is surely empty, and the line does not run dry for longer than needed. */
  #emptyMs(): number {
    const minRttMs = this.#minRttMs ?? 0;
    return Math.max(minRttMs / 2, minRttMs - this.#slackMs - this.#burstMs - QUEUE_TARGET_MS);
  }

  #enter(phase: 'steady' | 'probe' | 'empty', rounds: number): void {
    if (phase === 'steady') this.#nextProbeRound = this.#round + PROBE_EVERY_ROUNDS;
    this.#phase = phase;
    this.#phaseEndRound = this.#round + rounds;
  }

  /** Start-up: as much again as was delivered, up to twice what the link is known to carry. */
  #grow(bytes: number): void {
    const { rate } = this;
    const knownBytes =
      rate === undefined ? WINDOW_MAX_BYTES : 2 * rate * ((this.#minRttMs ?? 0) + QUEUE_TARGET_MS / 2);
    const limitBytes = Math.min(WINDOW_MAX_BYTES, Math.max(this.#windowBytes, knownBytes));
    this.#windowBytes = Math.min(limitBytes, this.#windowBytes + bytes);
  }

  /**
   * Acknowledgements that come in bursts (a process that did not run, jitter) show how much more than rate x time the
   * window must hold, so that the link has work during the pause between two bursts. A queue does not count: behind
   * it acknowledgements come at the link's rate.
   */
  #aggregation(bytes: number, nowMs: number): void {
    const rate = this.rate ?? 0;
    let expected = rate * (nowMs - this.#burstFromMs);
    if (this.#burstBytes <= expected) {
      this.#burstFromMs = nowMs;
      this.#burstBytes = 0;
      expected = 0;
    }
    this.#burstBytes += bytes;
    this.#roundBurstBytes = Math.max(this.#roundBurstBytes, this.#burstBytes - expected);
  }

  #smoothBursts(nowMs: number): void {
    const { rate } = this;
    // one piece is always in the burst that its own acknowledgement makes
    const burstMs = rate === undefined ? 0 : Math.max(0, this.#roundBurstBytes - this.fragmentBytes) / rate;
    this.#burstMs += (Math.min(AGGREGATION_MAX_MS, burstMs) - this.#burstMs) / 4;
    this.#roundBurstBytes = 0;
    // a rate that is a little too low must not add up to a burst
    this.#burstFromMs = nowMs;
    this.#burstBytes = 0;
  }

  #startupRound(roundRate: number, roundMinRttMs: number): void {
    const queueMs = roundMinRttMs - (this.#minRttMs ?? roundMinRttMs);
    if (roundRate > this.#startupBestRate * 1.25) {
      this.#startupBestRate = roundRate;
      this.#startupFlatRounds = 0;
    } else if (this.#startupBestRate > 0) this.#startupFlatRounds += 1;
    const queueGrows = queueMs > Math.max(QUEUE_TARGET_MS, (this.#minRttMs ?? 0) / 4);
    if (this.#startupFlatRounds >= 3 || (this.#startupBestRate > 0 && queueGrows)) this.#measureEmpty();
  }

  /** PROBE_MS more of window: did the rate follow by at least half of what it would, were the window the limit? */
  #probeEnded(roundRate: number): void {
    const baseMs = this.#baseMs();
    const wouldGrow = PROBE_MS / baseMs;
    if (roundRate > this.#beforeProbeRate * (1 + wouldGrow / 2)) {
      this.#slackMs = Math.min(SLACK_MAX_MS, this.#slackMs + QUEUE_TARGET_MS / 2);
    } else this.#slackMs = this.#slackMs < 0.5 ? 0 : this.#slackMs * 0.8;
  }

  #baseMs(): number {
    return (this.#minRttMs ?? 1) + this.#slackMs + this.#burstMs + QUEUE_TARGET_MS;
  }

  /**
   * The window shrinks at once and grows over about a round trip: what it gains would stand in the queue in one piece,
   * while the gap that it is to fill comes round later.
   */
  #apply(deliveredBytes: number): void {
    const rate = this.rate;
    if (rate === undefined || this.#minRttMs === undefined) return;
    let holdMs = this.#baseMs();
    if (this.#phase === 'probe') holdMs += PROBE_MS;
    else if (this.#phase === 'empty') holdMs = this.#emptyHoldMs;
    const target = Math.min(WINDOW_MAX_BYTES, Math.max(WINDOW_MIN_BYTES, Math.round(rate * holdMs)));
    const gap = target - this.#windowBytes;
    const step = Math.ceil((GROWTH_A_ROUND * gap * deliveredBytes) / this.#windowBytes);
    this.#windowBytes += gap > 0 ? Math.min(gap, step) : gap;
  }
}
