import { expect, test } from 'vitest';
import { wallClockUs } from './clock.ts';

/** The system clock is slewed while the test runs, and the test preempted. */
const TOLERANCE_US = 500;

test('the fine clock agrees with the system clock, whatever the process took for its origin', () => {
  let nearest = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < 20_000; i += 1) {
    const before = Date.now();
    const us = wallClockUs();
    expect(Number.isInteger(us)).toBe(true);
    expect(us).toBeGreaterThan(before * 1000 - TOLERANCE_US);
    nearest = Math.max(nearest, before * 1000 - us);
  }
  // just after a tick it is not ahead either
  expect(nearest).toBeGreaterThan(-TOLERANCE_US);
});
