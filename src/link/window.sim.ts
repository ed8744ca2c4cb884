import { WindowModel } from './window.ts';

/** A link for WindowModel on a virtual clock: no timers, no sockets, the same result each time. */
export interface SimulatedLink {
  rateMbit: number;
  rttMs: number;
  /** Delay that is no queue: each delivery and each acknowledgement is late by up to this, in order. */
  noiseMs?: number;
  /** The rate changes to `rateMbit` at `atMs`. */
  changes?: readonly { atMs: number; rateMbit: number }[];
  /** The sender has nothing to send in [from, to). */
  idle?: readonly { fromMs: number; toMs: number }[];
}
export interface SimulatedSecond {
  /** Share of the link's rate that arrived. */
  utilisation: number;
  maxQueueMs: number;
  meanQueueMs: number;
  windowBytes: number;
  maxInFlightBytes: number;
  /** What an urgent frame would have waited behind bulk, at moments spread evenly over the second. */
  urgentWaitsMs: readonly number[];
}

/** How often an urgent frame comes by; no multiple of anything that the window does. */
const URGENT_EVERY_MS = 0.97;

/** Small fixed generator (mulberry32), so that a run can be repeated. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

type Event = { atMs: number; run: (nowMs: number) => void };

/** Bulk flat out over the link for `seconds`; what each second looked like. */
export function simulate(
  link: SimulatedLink,
  seconds: number,
  model = new WindowModel(),
  seed = 1,
): SimulatedSecond[] {
  const random = seededRandom(seed);
  const noise = (): number => (link.noiseMs ?? 0) * random() ** 2;
  const events: Event[] = [];
  // latest first; of two at the same time the one that was added first comes first
  const at = (event: Event): void => {
    let low = 0;
    let high = events.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((events[middle]?.atMs ?? 0) > event.atMs) low = middle + 1;
      else high = middle;
    }
    events.splice(low, 0, event);
  };
  let rate = (link.rateMbit * 1000) / 8;
  for (const change of link.changes ?? []) {
    at({ atMs: change.atMs, run: () => (rate = (change.rateMbit * 1000) / 8) });
  }
  const result: SimulatedSecond[] = [];
  let freeMs = 0;
  let arrivedBytes = 0;
  let lastArrivalMs = 0;
  let lastAckMs = 0;
  const nothing = { bytes: 0, maxQueueMs: 0, queueMs: 0, pieces: 0, maxInFlightBytes: 0 };
  let stats = { ...nothing };
  let urgentWaitsMs: number[] = [];
  const isIdle = (nowMs: number): boolean =>
    (link.idle ?? []).some(({ fromMs, toMs }) => nowMs >= fromMs && nowMs < toMs);

  const pump = (nowMs: number): void => {
    for (;;) {
      if (isIdle(nowMs)) {
        model.appLimited();
        return;
      }
      const bytes = model.fragmentBytes + 24;
      if (!model.allows(bytes)) return;
      model.sent(bytes, nowMs);
      stats.maxInFlightBytes = Math.max(stats.maxInFlightBytes, model.inFlightBytes);
      const queueMs = Math.max(0, freeMs - nowMs);
      stats.maxQueueMs = Math.max(stats.maxQueueMs, queueMs);
      stats.queueMs += queueMs;
      stats.pieces += 1;
      freeMs = Math.max(nowMs, freeMs) + bytes / rate;
      const arrivalMs = Math.max(lastArrivalMs, freeMs + link.rttMs / 2 + noise());
      lastArrivalMs = arrivalMs;
      at({
        atMs: arrivalMs,
        run: (arrivedAtMs) => {
          arrivedBytes += bytes;
          stats.bytes += bytes;
          const received = arrivedBytes;
          const ackMs = Math.max(lastAckMs, arrivedAtMs + link.rttMs / 2 + noise());
          lastAckMs = ackMs;
          at({
            atMs: ackMs,
            run: (ackedAtMs) => {
              model.delivered(received, Math.round(arrivedAtMs * 1000), ackedAtMs);
              pump(ackedAtMs);
            },
          });
        },
      });
    }
  };
  for (const { toMs } of link.idle ?? []) at({ atMs: toMs, run: pump });
  for (let second = 1; second <= seconds; second += 1) {
    at({
      atMs: second * 1000,
      run: () => {
        result.push({
          utilisation: stats.bytes / (rate * 1000),
          maxQueueMs: stats.maxQueueMs,
          meanQueueMs: stats.queueMs / Math.max(1, stats.pieces),
          windowBytes: model.windowBytes,
          maxInFlightBytes: stats.maxInFlightBytes,
          urgentWaitsMs,
        });
        stats = { ...nothing };
        urgentWaitsMs = [];
      },
    });
  }
  const urgent = (nowMs: number): void => {
    urgentWaitsMs.push(Math.max(0, freeMs - nowMs));
    at({ atMs: nowMs + URGENT_EVERY_MS, run: urgent });
  };
  urgent(0);
  pump(0);
  while (result.length < seconds) {
    const event = events.pop();
    if (!event) break;
    event.run(event.atMs);
  }
  return result;
}
