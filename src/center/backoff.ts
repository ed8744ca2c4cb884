import { FOLLOW_BACKOFF_MAX_MS, FOLLOW_BACKOFF_MS } from './constants.ts';

/** When what has failed may be tried again: later with each failure. Times are Unix times in ms. */
export class Backoff {
  readonly #failures = new Map<string, { attempts: number; againAtMs: number }>();

  mayTry(id: string, nowMs: number): boolean {
    return (this.#failures.get(id)?.againAtMs ?? 0) <= nowMs;
  }

  failed(id: string, nowMs: number): void {
    const attempts = (this.#failures.get(id)?.attempts ?? 0) + 1;
    const waitMs = Math.min(FOLLOW_BACKOFF_MAX_MS, FOLLOW_BACKOFF_MS * 2 ** (attempts - 1));
    this.#failures.set(id, { attempts, againAtMs: nowMs + waitMs });
  }

  forget(id: string): void {
    this.#failures.delete(id);
  }
}
