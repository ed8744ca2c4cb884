import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { PullFrame } from '../../wire/disk/index.ts';
import { MAX_PULL_SECTORS_IN_FLIGHT } from './constants.ts';
import { LatencyHistogram } from './histogram.ts';
import { Phase } from './phase.ts';
import { pollSkips } from './poller.ts';
import { PullTable } from './pull-table.ts';
import { ReplayQueue } from './replay.ts';

describe('LatencyHistogram', () => {
  it('is within a sixteenth of a doubling of the true percentiles', () => {
    fc.assert(
      fc.property(fc.array(fc.double({ min: 0.001, max: 1e6, noNaN: true }), { minLength: 1 }), (samples) => {
        const histogram = new LatencyHistogram();
        for (const ms of samples) histogram.add(ms);
        const sorted = samples.toSorted((a, b) => a - b);
        const { count, p50Ms, p99Ms, maxMs } = histogram.summary();
        expect(count).toBe(samples.length);
        expect(maxMs).toBe(sorted.at(-1));
        for (const [value, fraction] of [
          [p50Ms, 0.5],
          [p99Ms, 0.99],
        ] as const) {
          const exact = sorted[Math.ceil(samples.length * fraction) - 1] ?? 0;
          expect(value).toBeGreaterThanOrEqual(exact * 0.999999);
          expect(value).toBeLessThanOrEqual(exact * 2 ** (1 / 16) * 1.000001);
        }
      }),
    );
    expect(new LatencyHistogram().summary()).toEqual({ count: 0, p50Ms: 0, p99Ms: 0, maxMs: 0 });
  });
});

describe('PullTable', () => {
  it('asks for a sector once, again if told so, and wakes who waits', async () => {
    const sent: PullFrame[] = [];
    const table = new PullTable((frame) => sent.push(frame));
    const woken: string[] = [];
    const one = table.wait([{ first: 10, count: 4 }]).then(() => woken.push('one'));
    table.ask({ first: 10, count: 4 }, false);
    const two = table.wait([{ first: 12, count: 8 }]).then(() => woken.push('two'));
    table.ask({ first: 12, count: 8 }, false);
    expect(sent).toEqual([
      { pull: 1, run: { first: 10, count: 4 }, again: false },
      { pull: 2, run: { first: 14, count: 6 }, again: false },
    ]);
    table.checkAnswer(1, { first: 10, count: 4 });
    expect(() => table.checkAnswer(1, { first: 10, count: 5 })).toThrow(
      expect.objectContaining({ code: 'DISK_UNSOLICITED' }),
    );
    expect(() => table.checkAnswer(3, { first: 10, count: 1 })).toThrow(
      expect.objectContaining({ code: 'DISK_UNSOLICITED' }),
    );
    expect(() => table.checkAnswered(1)).toThrow(expect.objectContaining({ code: 'DISK_UNSOLICITED' }));
    table.landed({ first: 10, count: 3 });
    table.ask({ first: 13, count: 1 }, true);
    expect(sent[2]).toEqual({ pull: 3, run: { first: 13, count: 1 }, again: true });
    expect(table.answered(3)).toEqual([{ first: 13, count: 1 }]);
    table.landed({ first: 13, count: 1 });
    await one;
    expect(woken).toEqual(['one']);
    table.landed({ first: 14, count: 6 });
    await two;
    expect(table.has(15)).toBe(false);
  });

  it('keeps to its limit and sends the rest as sectors land', () => {
    const sent: PullFrame[] = [];
    const table = new PullTable((frame) => sent.push(frame));
    table.ask({ first: 0, count: MAX_PULL_SECTORS_IN_FLIGHT + 1000 }, false);
    const inFlight = (): number => sent.reduce((sum, frame) => sum + frame.run.count, 0);
    expect(inFlight()).toBe(MAX_PULL_SECTORS_IN_FLIGHT);
    table.landed({ first: 0, count: 256 });
    expect(inFlight()).toBe(MAX_PULL_SECTORS_IN_FLIGHT + 256);
    table.landed({ first: 256, count: 16_384 });
    expect(inFlight()).toBeLessThanOrEqual(MAX_PULL_SECTORS_IN_FLIGHT + 1000);
  });

  it('fails everyone once, and everyone later', async () => {
    const table = new PullTable(() => undefined);
    const waiting = table.wait([{ first: 1, count: 1 }]);
    table.failAll(new Error('gone'));
    await expect(waiting).rejects.toThrow('gone');
    await expect(table.wait([])).rejects.toThrow('gone');
  });
});

describe('ReplayQueue', () => {
  it('does urgent jobs first, one at a time, in order', async () => {
    const done: string[] = [];
    let idle = 0;
    const queue = new ReplayQueue(() => idle++);
    const job = (name: string) => async (): Promise<void> => {
      await Promise.resolve();
      done.push(name);
    };
    await Promise.all([
      queue.add(false, 1, job('b1')),
      queue.add(true, 1, job('u1')),
      queue.add(false, 1, job('b2')),
      queue.add(true, 1, job('u2')),
    ]);
    expect(done).toEqual(['u1', 'u2', 'b1', 'b2']);
    await queue.settled();
    expect(idle).toBe(1);
    expect(() => queue.add(false, 2 ** 30, job('big'))).toThrow(
      expect.objectContaining({ code: 'DISK_LIMIT' }),
    );
    queue.failAll(new Error('stopped'));
    await expect(queue.add(true, 0, job('late'))).rejects.toThrow('stopped');
  });
});

describe('Phase', () => {
  it('follows its table and nothing else', () => {
    const phase = new Phase({ a: ['b'], b: [] }, 'a');
    phase.to('b');
    expect(() => phase.to('a')).toThrow(expect.objectContaining({ code: 'DISK_ORDER' }));
    expect(() => phase.expect('it', 'a')).toThrow(expect.objectContaining({ code: 'DISK_ORDER' }));
    expect(phase.now).toBe('b');
  });
});

describe('pollSkips', () => {
  it('backs off while nothing is new, survives failures, and ends with the signal', async () => {
    const stop = new AbortController();
    const found = [5, 0, 0, 0, 3, 0];
    const pauses: number[] = [];
    const errors: unknown[] = [];
    let polls = 0;
    await pollSkips({
      signal: stop.signal,
      minIntervalMs: 10,
      maxIntervalMs: 50,
      listWrittenClusters: async () => {
        if (++polls === 2) throw new Error('busy');
        return [{ offsetBytes: 0, lengthBytes: 65_536 }];
      },
      skip: () => found.shift() ?? 0,
      onError: (error) => errors.push(error),
      wait: async (ms) => {
        pauses.push(ms);
        if (pauses.length === 7) stop.abort();
      },
    });
    expect(pauses).toEqual([10, 20, 40, 50, 50, 10, 20]);
    expect(errors).toHaveLength(1);
  });
});
