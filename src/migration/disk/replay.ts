import { MAX_REPLAY_QUEUE_BYTES, MAX_REPLAY_QUEUE_FRAMES } from './constants.ts';
import { fail } from './errors.ts';

interface Job {
  bytes: number;
  work: () => void | Promise<void>;
  done: PromiseWithResolvers<void>;
}

/**
 * The replay daemon of Figure 6: does one job after the other, urgent ones first, in order within each kind. A job's
 * promise settles when it is done.
 */
export class ReplayQueue {
  readonly #urgent: Job[] = [];
  readonly #bulk: Job[] = [];
  readonly #onIdle: () => void;
  #bytes = 0;
  #running: Promise<void> | undefined;
  #failure: { error: unknown } | undefined;

  /** @param onIdle called whenever no job is left */
  constructor(onIdle: () => void) {
    this.#onIdle = onIdle;
  }

  get idle(): boolean {
    return this.#running === undefined;
  }

  /** Packed bytes that wait. */
  get bytes(): number {
    return this.#bytes;
  }

  /** @throws DISK_LIMIT when too much waits already */
  add(urgent: boolean, bytes: number, work: Job['work']): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure.error);
    const frames = this.#urgent.length + this.#bulk.length;
    if (this.#bytes + bytes > MAX_REPLAY_QUEUE_BYTES || frames >= MAX_REPLAY_QUEUE_FRAMES) {
      throw fail('DISK_LIMIT', `${frames} frames with ${this.#bytes} bytes wait to be written`);
    }
    const done = Promise.withResolvers<void>();
    this.#bytes += bytes;
    (urgent ? this.#urgent : this.#bulk).push({ bytes, work, done });
    this.#running ??= this.#run();
    return done.promise;
  }

  /** Rejects everything that waits and everything to come. */
  failAll(error: unknown): void {
    this.#failure ??= { error };
    for (const job of [...this.#urgent.splice(0), ...this.#bulk.splice(0)]) job.done.reject(error);
    this.#bytes = 0;
  }

  /** Resolves when the job under way has ended, however. */
  async settled(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    // Not within add(): its caller must have the promise first.
    await Promise.resolve();
    for (let job = this.#next(); job; job = this.#next()) {
      this.#bytes -= job.bytes;
      try {
        await job.work();
        job.done.resolve();
      } catch (error) {
        job.done.reject(error);
      }
    }
    this.#running = undefined;
    this.#onIdle();
  }

  #next(): Job | undefined {
    return this.#urgent.shift() ?? this.#bulk.shift();
  }
}
