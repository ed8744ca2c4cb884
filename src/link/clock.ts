/** Milliseconds that never go back; for durations. */
export function monotonicMs(): number {
  return performance.now();
}

/** A few ticks of `Date.now`, in case the process is preempted at one of them. */
const ANCHOR_SPIN_MS = 3.1;

/**
 * What to add to the monotonic clock. `performance.timeOrigin` will not do: a process that is preempted while it starts
 * gets one that is 10 ms off. `Date.now()` is cut to whole milliseconds and is read first, so that no sample is above
 * the truth wherever the process is preempted: the largest is right.
 */
function anchorMs(): number {
  const startedMs = performance.now();
  let best = Number.NEGATIVE_INFINITY;
  for (let nowMs = startedMs; nowMs - startedMs < ANCHOR_SPIN_MS; ) {
    const wallMs = Date.now();
    nowMs = performance.now();
    best = Math.max(best, wallMs - nowMs);
  }
  return best;
}

const anchor = anchorMs();

/** Wall clock in whole microseconds since 1970 (finer than Date.now), as QEMU's event timestamps are; never goes back. */
export function wallClockUs(): number {
  return Math.round((anchor + performance.now()) * 1000);
}
