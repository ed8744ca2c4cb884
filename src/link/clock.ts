/** Milliseconds that never go back; for durations. */
export function monotonicMs(): number {
  return performance.now();
}

/** Wall clock in whole microseconds since 1970 (finer than Date.now), as QEMU's event timestamps are. */
export function wallClockUs(): number {
  return Math.round((performance.timeOrigin + performance.now()) * 1000);
}
