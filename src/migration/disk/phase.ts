import { fail } from './errors.ts';

/** A state machine as a table: for each phase, those that may follow. */
export class Phase<P extends string> {
  readonly #table: Readonly<Record<P, readonly P[]>>;
  #now: P;

  constructor(table: Readonly<Record<P, readonly P[]>>, first: P) {
    this.#table = table;
    this.#now = first;
  }

  get now(): P {
    return this.#now;
  }

  is(...phases: readonly P[]): boolean {
    return phases.includes(this.#now);
  }

  /** @throws DISK_ORDER when `next` may not follow */
  to(next: P): void {
    if (!this.#table[this.#now].includes(next)) {
      throw fail('DISK_ORDER', `${next} after ${this.#now}`, { fields: { phase: this.#now, next } });
    }
    this.#now = next;
  }

  /** @throws DISK_ORDER unless in one of `phases` */
  expect(what: string, ...phases: readonly P[]): void {
    if (!phases.includes(this.#now)) {
      throw fail('DISK_ORDER', `${what} in phase ${this.#now}`, { fields: { phase: this.#now } });
    }
  }
}
