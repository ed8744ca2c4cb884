/** What may go in any case: so much a second when the VM has just been resumed, doubled at each step of time. */
export const PACE_START_BYTES_PER_S = 8 * 1024 * 1024;
export const PACE_DOUBLING_MS = 250;
/** Then it is over: the VM has what it works with, and what is left should not depend on the source for longer. */
export const PACE_ENDS_MS = 2000;
/** A VM that has asked for nothing for so long waits for nothing. */
export const PACE_QUIET_MS = 20;

/** What the trickle may save up while there was nothing to send. */
export const PACE_SAVED_MAX_BYTES = 256 * 1024;
const PACE_LOOK_MS = 2;

/** Calls back after `ms`; the result takes it back. */
export type After = (ms: number, call: () => void) => () => void;

/**
 * How fast the rest of a VM may come after the switch. What the VM waits for shares link and hosts with what nobody waits for:
 * each page it touches first would stand in the queues of every process on its way. So while the VM asks, the background is held to
 * a trickle, which grows until it is no limit any more.
 */
export class Pace {
  readonly #now: () => number;
  readonly #after: After;
  #state: 'before' | 'running' | 'over' = 'before';
  #startedAtMs = 0;
  #askedAtMs = Number.NEGATIVE_INFINITY;
  #creditBytes = 0;
  #creditAtMs = 0;
  #waiting: (() => void)[] = [];
  #cancel: (() => void) | undefined;

  constructor(now: () => number = () => performance.now(), after: After = later) {
    this.#now = now;
    this.#after = after;
  }

  /** The VM runs at the target. */
  start(): void {
    if (this.#state !== 'before') return;
    this.#state = 'running';
    this.#startedAtMs = this.#creditAtMs = this.#askedAtMs = this.#now();
  }

  /** The VM waits for something. */
  asked(): void {
    if (this.#state !== 'running') return;
    this.#askedAtMs = this.#now();
  }

  /** No limit from here on. */
  end(): void {
    this.#state = 'over';
    this.#look();
  }

  /** Takes `bytes` that have gone; undefined if more may follow at once, else a promise of when. */
  room(bytes: number): Promise<void> | undefined {
    if (this.#state !== 'running') return undefined;
    this.#creditBytes -= bytes;
    if (this.#mayGo()) return undefined;
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#wait();
    });
  }

  #mayGo(): boolean {
    if (this.#state !== 'running') return true;
    const now = this.#now();
    const sinceMs = now - this.#startedAtMs;
    if (sinceMs >= PACE_ENDS_MS) this.#state = 'over';
    const rate = PACE_START_BYTES_PER_S * 2 ** (sinceMs / PACE_DOUBLING_MS);
    this.#creditBytes += (rate * (now - this.#creditAtMs)) / 1000;
    this.#creditBytes = Math.min(this.#creditBytes, PACE_SAVED_MAX_BYTES);
    this.#creditAtMs = now;
    if (this.#creditBytes >= 0 || this.#state === 'over') return true;
    if (now - this.#askedAtMs < PACE_QUIET_MS) return false;
    // what goes meanwhile is not held against it later
    this.#creditBytes = 0;
    return true;
  }

  #look(): void {
    if (!this.#mayGo()) return this.#wait();
    this.#cancel?.();
    this.#cancel = undefined;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const go of waiting) go();
  }

  /** Looks again; whatever happens before that looks by itself. */
  #wait(): void {
    if (this.#cancel || this.#waiting.length === 0) return;
    this.#cancel = this.#after(PACE_LOOK_MS, () => {
      this.#cancel = undefined;
      this.#look();
    });
  }
}

function later(ms: number, call: () => void): () => void {
  const timer = setTimeout(call, ms);
  timer.unref();
  return () => clearTimeout(timer);
}
