import { sleep } from '../../base/async.ts';

/** Pages that a VM asks for before it answers again, where all of its memory is still at the source. */
const EXPECTED_FAULTS = 100;
/** What one takes in the processes of both hosts. */
const FAULT_MS = 2;
/** A page that is asked for brings its neighbours along, and is none of those that are cheap because they are zero. */
const FAULT_PAGES = 16;
/** A wait as short as this may be added to the time in which the VM does not answer, in any case. */
const PAUSE_SHORT_MS = 250;
/** One of up to this, where the rest of round one would take so many times as long. */
const PAUSE_MAX_MS = 700;
const WORTH = 4;
/** Of a VM's memory so much goes first in any case: it begins with what every guest needs, its kernel. */
const LEAVE_MAX = 0.9;
const LOOK_MS = 5;

export interface RoundOneView {
  /** Since it began. */
  readonly elapsedMs: number;
  /** Different pages that have gone, and all. */
  readonly pagesSeen: number;
  readonly pagesTotal: number;
  /** Undefined while it is not known. */
  readonly rttMs: number | undefined;
}

/** What leaving costs, and what it saves: ms that the VM would wait for pages, and that round one would go on. */
export interface Leaving {
  readonly pauseMs: number;
  readonly restMs: number;
}

/**
 * What it would be to end round one now; undefined while too little has gone to tell. Pages are taken to be needed wherever
 * they stand, so the part that has gone is not waited for.
 */
export function leaving({ elapsedMs, pagesSeen, pagesTotal, rttMs }: RoundOneView): Leaving | undefined {
  if (pagesTotal === 0 || rttMs === undefined) return undefined;
  const leftPages = Math.max(0, pagesTotal - pagesSeen);
  const left = leftPages / pagesTotal;
  if (left > LEAVE_MAX) return undefined;
  // whatever holds round one up, link or CPU, will hold these up as well
  const pageMs = elapsedMs / pagesSeen;
  return {
    pauseMs: EXPECTED_FAULTS * left * (rttMs + FAULT_MS + FAULT_PAGES * pageMs),
    restMs: leftPages * pageMs,
  };
}

/** Whether the VM may be elsewhere sooner, and wait there for little. */
export function isWorthLeaving(view: RoundOneView): boolean {
  const result = leaving(view);
  if (!result) return false;
  const { pauseMs, restMs } = result;
  return pauseMs <= PAUSE_SHORT_MS || (pauseMs <= PAUSE_MAX_MS && restMs >= WORTH * pauseMs);
}

/** Resolves when round one is worth leaving. Over a link with a long way that is late, or never. */
export async function worthLeaving(view: () => RoundOneView, signal: AbortSignal): Promise<void> {
  while (!isWorthLeaving(view())) await sleep(LOOK_MS, signal);
}
