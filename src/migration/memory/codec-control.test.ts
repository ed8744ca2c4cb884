import { describe, expect, test } from 'vitest';
import { CODEC_STEPS, CodecControl, type CodecInterval } from './codec-control.ts';

const MIB = 1024 * 1024;
/** What zstd makes of memory at each step, and MB/s of a core, as measured on a process's memory. */
const RATIO = [1, 0.305, 0.294, 0.288, 0.278, 0.276, 0.268];
const SPEED = [Number.POSITIVE_INFINITY, 329, 255, 215, 93, 68, 48];

interface Machine {
  rateMbit: number;
  threads: number;
  /** Share of a core that a thread gets. */
  cpu: number;
  /** Bodies that QEMU and this thread give at most, MB/s. */
  feedMBps?: number;
  /** What the target takes, MB/s on the link. */
  targetMBps?: number;
}

/** 4 MiB of bodies go through three stages at once: the slowest sets the pace, and the others wait for it. */
function interval(at: number, machine: Machine): CodecInterval {
  const { rateMbit, threads, cpu, feedMBps = 600, targetMBps = Number.POSITIVE_INFINITY } = machine;
  const bodyBytes = 4 * MIB;
  const sentBytes = bodyBytes * (RATIO[at] as number);
  const packMs = bodyBytes / 1000 / (SPEED[at] as number) / cpu;
  const linkMs = Math.max((8 * sentBytes) / 1000 / rateMbit, sentBytes / 1000 / targetMBps);
  const elapsedMs = Math.max(packMs / threads, linkMs, bodyBytes / 1000 / feedMBps);
  return {
    elapsedMs,
    bodyBytes,
    sentBytes,
    packedBodyBytes: at === 0 ? 0 : bodyBytes,
    packMs,
    packWaitMs: packMs / threads === elapsedMs ? elapsedMs - linkMs : 0,
    linkWaitMs: linkMs === elapsedMs ? elapsedMs * 0.9 : 0,
    rateMbit,
  };
}

/** Levels chosen one after the other. */
function run(machine: Machine, intervals: number, control = new CodecControl(machine.threads)): number[] {
  return Array.from({ length: intervals }, () => {
    const at = CODEC_STEPS.indexOf(control.step);
    return control.decide(interval(at, machine)).zstdLevel;
  });
}

describe('the level', () => {
  test.each([
    [5, 9],
    [50, 9],
    [100, 5],
    [200, 3],
    [400, 1],
    [1000, 1],
  ])('at %d Mbit/s with a core to spare: %d', (rateMbit, level) => {
    const levels = run({ rateMbit, threads: 1, cpu: 1 }, 12);
    // found at once, and kept
    expect(levels.slice(4)).toEqual(levels.slice(4).map(() => level));
  });

  test('more threads allow for more', () => {
    expect(run({ rateMbit: 1000, threads: 4, cpu: 1 }, 12).at(-1)).toBe(3);
  });

  test('a busy machine takes a lower one', () => {
    expect(run({ rateMbit: 100, threads: 1, cpu: 0.2 }, 12).at(-1)).toBe(1);
  });

  test('a link faster than any compression gets none', () => {
    const levels = run({ rateMbit: 10_000, threads: 1, cpu: 1 }, 20);
    expect(levels.slice(1)).toEqual(levels.slice(1).map(() => 0));
  });

  test('going without is given up where it makes things slower, and not tried again at once', () => {
    // packing takes 13 ms for 4 MiB, a link of 1.2 Gbit/s 9 ms for them packed and 28 ms as they are
    const levels = run({ rateMbit: 1200, threads: 1, cpu: 0.95 }, 33);
    expect(levels.filter((level) => level === 0).length).toBeLessThanOrEqual(3);
  });

  test('nobody waits: nothing changes', () => {
    expect(new Set(run({ rateMbit: 1000, threads: 1, cpu: 1, feedMBps: 20 }, 10))).toEqual(new Set([1]));
  });

  test('a slow target is not helped by smaller frames', () => {
    expect(new Set(run({ rateMbit: 1000, threads: 1, cpu: 1, targetMBps: 10 }, 10))).toEqual(new Set([1]));
  });

  test('it follows a change', () => {
    const control = new CodecControl(1);
    expect(run({ rateMbit: 100, threads: 1, cpu: 1 }, 10, control).at(-1)).toBe(5);
    // other work takes the cores
    expect(run({ rateMbit: 100, threads: 1, cpu: 0.2 }, 10, control).at(-1)).toBeLessThan(5);
    expect(run({ rateMbit: 1000, threads: 1, cpu: 0.2 }, 10, control).at(-1)).toBeLessThanOrEqual(1);
    expect(run({ rateMbit: 20, threads: 1, cpu: 1 }, 10, control).at(-1)).toBe(9);
  });

  test('an interval without anything says nothing', () => {
    const control = new CodecControl(1);
    const empty = { elapsedMs: 100, bodyBytes: 0, sentBytes: 50, packedBodyBytes: 0, packMs: 0 };
    expect(control.decide({ ...empty, packWaitMs: 0, linkWaitMs: 90, rateMbit: undefined })).toBe(
      CODEC_STEPS[1],
    );
  });
});
