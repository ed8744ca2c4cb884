import { expect, test } from 'vitest';
import { QUEUE_TARGET_MS, WINDOW_MAX_BYTES, WINDOW_MIN_BYTES } from './constants.ts';
import { simulate } from './window.sim.ts';
import { WindowModel } from './window.ts';

const cases = [10, 100, 1000].flatMap((rateMbit) => [5, 20, 80].map((rttMs) => ({ rateMbit, rttMs })));
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

test.each(cases)(
  '$rateMbit Mbit/s, $rttMs ms: the link is full and its queue is short',
  ({ rateMbit, rttMs }) => {
    const seconds = simulate({ rateMbit, rttMs }, 14);
    const steady = seconds.slice(3);
    expect(mean(steady.map((s) => s.utilisation))).toBeGreaterThan(0.96);
    expect(mean(steady.map((s) => s.meanQueueMs))).toBeLessThan(QUEUE_TARGET_MS + 4);
    // on average over the second; single pieces more while the window is raised to probe
    expect(Math.max(...steady.map((s) => s.maxQueueMs))).toBeLessThan(4 * QUEUE_TARGET_MS + rttMs / 4);
    for (const s of steady)
      expect(s.maxInFlightBytes).toBeLessThanOrEqual((rateMbit * 1000 * (rttMs * 1.3 + 20)) / 8);
  },
);

test.each(cases)(
  '$rateMbit Mbit/s, $rttMs ms: start-up overshoots by at most one bandwidth-delay product',
  (link) => {
    const [first] = simulate(link, 1);
    // 40 ms: what the first window is at 10 Mbit/s
    expect(first?.maxQueueMs).toBeLessThan(40 + link.rttMs);
  },
);

test.each([5, 10])('%d ms of jitter cost little rate', (noiseMs) => {
  for (const rateMbit of [10, 100]) {
    for (const rttMs of [5, 20]) {
      const steady = simulate({ rateMbit, rttMs, noiseMs }, 12).slice(3);
      expect(mean(steady.map((s) => s.utilisation))).toBeGreaterThan(0.93);
      expect(mean(steady.map((s) => s.meanQueueMs))).toBeLessThan(2 * noiseMs + 3 * QUEUE_TARGET_MS);
    }
  }
});

test.each(
  [5, 10, 50, 100, 1_000].flatMap((rateMbit) => [1, 10, 50, 100].map((rttMs) => ({ rateMbit, rttMs }))),
)('$rateMbit Mbit/s, $rttMs ms: an urgent frame waits a few ms, and bulk has the link', (link) => {
  const steady = simulate(link, 14).slice(4);
  const waits = steady.flatMap((s) => s.urgentWaitsMs).sort((a, b) => a - b);
  expect(waits[waits.length >> 1]).toBeLessThan(QUEUE_TARGET_MS + 1.5);
  expect(waits[Math.floor(waits.length * 0.99)]).toBeLessThan(2 * QUEUE_TARGET_MS + 1);
  // when the round trip is measured anew, once in ten seconds
  expect(waits.at(-1)).toBeLessThan(3 * QUEUE_TARGET_MS);
  for (const s of steady) expect(s.utilisation).toBeGreaterThan(0.94);
});

test('at 10 Gbit/s too, and the window never exceeds its limit', () => {
  const steady = simulate({ rateMbit: 10_000, rttMs: 10 }, 3).slice(2);
  expect(Math.max(...steady.flatMap((s) => s.urgentWaitsMs))).toBeLessThan(2 * QUEUE_TARGET_MS);
  expect(mean(steady.map((s) => s.utilisation))).toBeGreaterThan(0.94);
  const long = simulate({ rateMbit: 10_000, rttMs: 100 }, 3);
  expect(Math.max(...long.map((s) => s.maxInFlightBytes))).toBeLessThanOrEqual(WINDOW_MAX_BYTES);
});

test.each([1, 10, 50])(
  'a link of %d ms that becomes five times slower: the queue goes within a second',
  (rttMs) => {
    const seconds = simulate({ rateMbit: 100, rttMs, changes: [{ atMs: 5_000, rateMbit: 20 }] }, 9);
    const after = seconds.slice(6);
    expect(Math.max(...after.flatMap((s) => s.urgentWaitsMs))).toBeLessThan(3 * QUEUE_TARGET_MS);
    for (const s of after) expect(s.utilisation).toBeGreaterThan(0.94);
  },
);

test('a link that gets slower or faster is followed', () => {
  const changes = [
    { atMs: 5_000, rateMbit: 20 },
    { atMs: 10_000, rateMbit: 200 },
  ];
  const seconds = simulate({ rateMbit: 100, rttMs: 10, changes }, 15);
  const slow = seconds.slice(7, 9);
  expect(Math.max(...slow.map((s) => s.maxQueueMs))).toBeLessThan(30);
  expect(mean(slow.map((s) => s.utilisation))).toBeGreaterThan(0.95);
  expect(mean(seconds.slice(12).map((s) => s.utilisation))).toBeGreaterThan(0.95);
});

test('pauses of the sender do not make the link look slow', () => {
  const idle = Array.from({ length: 40 }, (_, i) => ({ fromMs: 2_000 + i * 100, toMs: 2_090 + i * 100 }));
  const model = new WindowModel();
  const seconds = simulate({ rateMbit: 100, rttMs: 10, idle }, 8, model);
  expect(seconds[7]?.utilisation).toBeGreaterThan(0.95);
  const windows = seconds.slice(2, 6).map((s) => s.windowBytes);
  expect(Math.min(...windows)).toBeGreaterThan(100_000);
});

test('acknowledgements of what was not sent, or of less than before, are refused', () => {
  const model = new WindowModel();
  model.sent(1000, 0);
  expect(model.delivered(1001, 1, 1)).toBe(false);
  expect(model.delivered(600, 1, 1)).toBe(true);
  expect(model.delivered(599, 1, 1)).toBe(false);
  expect(model.inFlightBytes).toBe(400);
});

test('one piece may always be on its way, and a lost connection leaves nothing in flight', () => {
  const model = new WindowModel();
  expect(model.allows(10 * model.windowBytes)).toBe(true);
  model.sent(model.windowBytes, 0);
  expect(model.allows(1)).toBe(false);
  model.reset();
  expect(model.inFlightBytes).toBe(0);
  expect(model.windowBytes).toBeGreaterThanOrEqual(WINDOW_MIN_BYTES);
});
