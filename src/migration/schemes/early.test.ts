import { expect, test } from 'vitest';
import { isWorthLeaving, leaving, type RoundOneView, worthLeaving } from './early.ts';

/** Round one of a VM of 512 MiB, which takes 2 s. */
const at = (share: number, rttMs: number | undefined, wholeMs = 2000): RoundOneView => ({
  elapsedMs: share * wholeMs,
  pagesSeen: Math.round(share * 131_072),
  pagesTotal: 131_072,
  rttMs,
});
/** The share after which it is left. */
function left(rttMs: number, wholeMs?: number): number {
  for (let percent = 0; percent < 100; percent++)
    if (isWorthLeaving(at(percent / 100, rttMs, wholeMs))) return percent / 100;
  return 1;
}

test('nothing is left before enough has gone to tell, and before the round trip is known', () => {
  expect(leaving({ elapsedMs: 0, pagesSeen: 0, pagesTotal: 0, rttMs: 0.1 })).toBeUndefined();
  expect(leaving(at(0, 0.1))).toBeUndefined();
  expect(leaving(at(0.05, 0.1))).toBeUndefined();
  expect(leaving(at(0.5, undefined))).toBeUndefined();
  expect(isWorthLeaving(at(0.99, undefined))).toBe(false);
});

test('where a page is near, round one is left as soon as may be, the later the longer its way is', () => {
  expect(left(0.2)).toBeLessThanOrEqual(0.11);
  const shares = [0.2, 2, 5, 10, 20, 50, 100].map((rttMs) => left(rttMs));
  expect(shares).toEqual(shares.toSorted((a, b) => a - b));
  expect(left(50)).toBeGreaterThan(0.9);
});

test('a round that takes long is left for a pause that is short beside it, but never for a long one', () => {
  // 60 s for all: a link of some Mbit/s
  expect(left(2, 60_000)).toBeLessThan(left(2, 60_000 * 3));
  for (const wholeMs of [1000, 10_000, 100_000]) {
    const { pauseMs } = leaving(at(left(20, wholeMs), 20, wholeMs)) ?? { pauseMs: 0 };
    expect(pauseMs).toBeLessThanOrEqual(700);
  }
});

test('pages that have been sent are not waited for', () => {
  const pauses = [0.2, 0.4, 0.6, 0.8, 1].map((share) => leaving(at(share, 1))?.pauseMs ?? Number.NaN);
  expect(pauses).toEqual(pauses.toSorted((a, b) => b - a));
  expect(pauses.at(-1)).toBe(0);
});

test('who waits for the time to leave hears of it, or of the end', async () => {
  let share = 0;
  const waiting = worthLeaving(() => at((share += 0.04), 0.2), AbortSignal.timeout(10_000));
  await waiting;
  expect(share).toBeGreaterThan(0.1);
  const over = new AbortController();
  const never = worthLeaving(() => at(0, 0.2), over.signal);
  over.abort(new Error('round one is over'));
  await expect(never).rejects.toThrow('round one is over');
});
