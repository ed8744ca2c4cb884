import { sleep } from '../../base/async.ts';
import type { ByteExtent } from '../../wire/qcow2/index.ts';
import { POLL_MAX_INTERVAL_MS, POLL_MIN_INTERVAL_MS } from './constants.ts';

export interface SkipPollerOptions {
  /** Parts of the guest's disk that are allocated in `top` (whole clusters of it), sorted or not. */
  listWrittenClusters: (signal: AbortSignal) => Promise<readonly ByteExtent[]>;
  /** DiskTarget.skip. Returns how many sectors are new. */
  skip: (written: readonly ByteExtent[]) => number;
  /** Ends the loop. */
  signal: AbortSignal;
  /** A failed poll costs nothing but transfer: it is reported here and tried again later. */
  onError?: (error: unknown) => void;
  minIntervalMs?: number;
  maxIntervalMs?: number;
  /** For tests. */
  wait?: (ms: number, signal: AbortSignal) => Promise<void>;
}

/** Polls until the signal aborts: often while the guest overwrites, less and less often while it does not. */
export async function pollSkips(options: SkipPollerOptions): Promise<void> {
  const { signal, minIntervalMs = POLL_MIN_INTERVAL_MS, maxIntervalMs = POLL_MAX_INTERVAL_MS } = options;
  const wait = options.wait ?? sleep;
  let intervalMs = minIntervalMs;
  while (!signal.aborted) {
    let found = 0;
    try {
      const written = await options.listWrittenClusters(signal);
      if (signal.aborted) return;
      found = options.skip(written);
    } catch (error) {
      if (signal.aborted) return;
      options.onError?.(error);
    }
    intervalMs = found > 0 ? minIntervalMs : Math.min(maxIntervalMs, intervalMs * 2);
    try {
      await wait(intervalMs, signal);
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
  }
}
