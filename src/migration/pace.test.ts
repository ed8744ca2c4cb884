import { describe, expect, test } from 'vitest';
import {
  Pace,
  PACE_DOUBLING_MS,
  PACE_ENDS_MS,
  PACE_QUIET_MS,
  PACE_SAVED_MAX_BYTES,
  PACE_START_BYTES_PER_S,
} from './pace.ts';

const CHUNK = 64 * 1024;

/** A clock that is moved by hand, with its timers. */
class Clock {
  nowMs = 1000;
  #timers: { atMs: number; call: () => void }[] = [];
  readonly pace = new Pace(
    () => this.nowMs,
    (ms, call) => {
      const timer = { atMs: this.nowMs + ms, call };
      this.#timers.push(timer);
      return () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      };
    },
  );

  get timers(): number {
    return this.#timers.length;
  }

  /** Lets `ms` pass while the VM asks for something every millisecond; `asks` false: while it does not. */
  async pass(ms: number, asks = true): Promise<void> {
    for (const endMs = this.nowMs + ms; this.nowMs < endMs; ) {
      this.nowMs += 1;
      if (asks) this.pace.asked();
      const due = this.#timers.filter(({ atMs }) => atMs <= this.nowMs);
      this.#timers = this.#timers.filter(({ atMs }) => atMs > this.nowMs);
      for (const { call } of due) call();
      // whoever waited for room goes on
      for (let turn = 0; turn < 10; turn++) await Promise.resolve();
    }
  }
}

/** Sends as much as it may; `sent.bytes` says how much that was. */
function sender(pace: Pace): { bytes: number; stop: boolean } {
  const sent = { bytes: 0, stop: false };
  void (async () => {
    while (!sent.stop && sent.bytes < 2 ** 30) {
      sent.bytes += CHUNK;
      const room = pace.room(CHUNK);
      await (room ?? Promise.resolve());
      if (!room && sent.bytes % (64 * CHUNK) === 0) await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  return sent;
}

describe('the pace of what nobody waits for', () => {
  test('is no limit before the VM runs, nor after it has had its time, nor once it is ended', async () => {
    const clock = new Clock();
    const { pace } = clock;
    for (let i = 0; i < 100; i++) expect(pace.room(CHUNK)).toBeUndefined();
    pace.start();
    await clock.pass(PACE_ENDS_MS);
    for (let i = 0; i < 100; i++) expect(pace.room(CHUNK)).toBeUndefined();

    const other = new Clock();
    other.pace.start();
    other.pace.end();
    for (let i = 0; i < 100; i++) expect(other.pace.room(CHUNK)).toBeUndefined();
  });

  test('is a trickle while the VM asks, and doubles with time', async () => {
    const clock = new Clock();
    clock.pace.start();
    const sent = sender(clock.pace);
    await clock.pass(PACE_DOUBLING_MS);
    // the mean of a rate that doubles is 1/ln 2 of its start
    const first = (PACE_START_BYTES_PER_S * PACE_DOUBLING_MS) / 1000 / Math.LN2;
    expect(sent.bytes).toBeGreaterThan(0.8 * first);
    expect(sent.bytes).toBeLessThan(1.1 * first + 2 * CHUNK);
    const before = sent.bytes;
    await clock.pass(PACE_DOUBLING_MS);
    expect((sent.bytes - before) / first).toBeGreaterThan(1.8);
    expect((sent.bytes - before) / first).toBeLessThan(2.2);
    sent.stop = true;
    clock.pace.end();
  });

  test('lets go of whoever waits when the VM asks for nothing any more, or all is over', async () => {
    const clock = new Clock();
    const { pace } = clock;
    pace.start();
    pace.asked();
    let gone = 0;
    void pace.room(2 ** 30)?.then(() => gone++);
    await clock.pass(PACE_QUIET_MS - 2, false);
    expect(gone).toBe(0);
    await clock.pass(5, false);
    expect(gone).toBe(1);

    pace.asked();
    void pace.room(2 ** 30)?.then(() => gone++);
    pace.end();
    await clock.pass(1, false);
    expect(gone).toBe(2);
    expect(clock.timers).toBe(0);
  });

  test('saves up little', async () => {
    const clock = new Clock();
    clock.pace.start();
    await clock.pass(PACE_DOUBLING_MS);
    let free = 0;
    while (clock.pace.room(CHUNK) === undefined) free += CHUNK;
    expect(free).toBeLessThanOrEqual(PACE_SAVED_MAX_BYTES + CHUNK);
  });
});
