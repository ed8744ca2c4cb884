import type { QmpEvent } from '../wire/qmp/messages.ts';
import { QMP_EVENT_HISTORY, QMP_EVENT_TIMEOUT_MS } from './constants.ts';
import { fail } from './errors.ts';

/** A place in a session's sequence of events. */
export type QmpMark = number & { readonly brand: 'QmpMark' };

export interface WaitEventOptions {
  readonly signal?: AbortSignal | undefined;
  /** Infinity waits without a deadline. */
  readonly timeoutMs?: number | undefined;
  /** Events since this mark count too; without it only those that arrive from now on. */
  readonly since?: QmpMark | undefined;
}

interface Waiter {
  readonly matches: (event: QmpEvent) => boolean;
  readonly resolve: (event: QmpEvent) => void;
  readonly reject: (error: Error) => void;
}

/**
 * Events of one monitor: remembered (bounded), told to listeners, waited for. Take a mark, give the command, wait
 * since the mark: then an event that came before the command's answer is not missed.
 */
export class QmpEventLog {
  readonly #history: QmpEvent[] = [];
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #waiters = new Set<Waiter>();
  readonly #historyLimit: number;
  /** Number of the oldest event in the history. */
  #first = 0;
  #ended: Error | undefined;

  constructor(historyLimit = QMP_EVENT_HISTORY) {
    this.#historyLimit = historyLimit;
  }

  mark(): QmpMark {
    return (this.#first + this.#history.length) as QmpMark;
  }

  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Events since the mark that are still remembered. @throws QMP_EVENTS_LOST */
  since(mark: QmpMark): readonly QmpEvent[] {
    if (mark < this.#first) {
      throw fail('QMP_EVENTS_LOST', `${this.#first - mark} of them`, {
        fields: { limitEvents: this.#historyLimit },
      });
    }
    return this.#history.slice(mark - this.#first);
  }

  push(event: QmpEvent): void {
    this.#history.push(event);
    if (this.#history.length > this.#historyLimit) {
      this.#history.shift();
      this.#first++;
    }
    for (const waiter of this.#waiters) {
      if (!waiter.matches(event)) continue;
      this.#waiters.delete(waiter);
      waiter.resolve(event);
    }
    for (const listener of Array.from(this.#listeners)) {
      try {
        listener(event);
      } catch (error) {
        // The listener's defect: reported as uncaught, without harm to the session.
        queueMicrotask(() => {
          throw error;
        });
      }
    }
  }

  /** No event will come any more: who waits gets the cause. */
  end(cause: Error): void {
    this.#ended ??= cause;
    for (const waiter of this.#waiters) waiter.reject(this.#ended);
    this.#waiters.clear();
  }

  /** @throws QMP_EVENT_TIMEOUT, QMP_EVENTS_LOST, the signal's reason, the cause of the session's end */
  async wait(
    name: string | readonly string[],
    predicate: (event: QmpEvent) => boolean = () => true,
    options: WaitEventOptions = {},
  ): Promise<QmpEvent> {
    const { signal, timeoutMs = QMP_EVENT_TIMEOUT_MS } = options;
    signal?.throwIfAborted();
    const names = typeof name === 'string' ? [name] : name;
    const matches = (event: QmpEvent): boolean => names.includes(event.name) && predicate(event);
    const past = options.since === undefined ? undefined : this.since(options.since).find(matches);
    if (past) return past;
    if (this.#ended) throw this.#ended;

    const { promise, resolve, reject } = Promise.withResolvers<QmpEvent>();
    // A predicate that throws ends its own wait, not the session.
    const guarded = (event: QmpEvent): boolean => {
      try {
        return matches(event);
      } catch (error) {
        this.#waiters.delete(waiter);
        reject(error);
        return false;
      }
    };
    const waiter: Waiter = { matches: guarded, resolve, reject };
    this.#waiters.add(waiter);
    const onAbort = (): void => reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    const timer =
      timeoutMs === Infinity
        ? undefined
        : setTimeout(
            () => reject(fail('QMP_EVENT_TIMEOUT', `${names.join(', ')} within ${timeoutMs} ms`)),
            timeoutMs,
          );
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      this.#waiters.delete(waiter);
    }
  }
}
