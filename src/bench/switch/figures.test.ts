import { expect, test } from 'vitest';
import { casesOf, PEER, phaseMedians, switchRows } from './figures.ts';
import type { SwitchRun } from './run.ts';

function run(change: Partial<SwitchRun>): SwitchRun {
  return {
    scheme: 'rle',
    case: 'cold',
    run: 1,
    switchTimeMs: 1000,
    downtimeMs: 10,
    totalTimeMs: 2000,
    migratedBytes: 2 ** 20,
    linkBytes: 2 ** 20,
    serviceGapMs: 12,
    oneWayDelayMs: 5,
    completedAsPrecopy: false,
    phases: [],
    loadAverage: 0,
    details: {},
    ...change,
  };
}

test('each codec and case stands beside stock QEMU, which knows no way home', () => {
  const runs = [
    run({ switchTimeMs: 1000 }),
    run({ scheme: 'zstd', switchTimeMs: 500 }),
    run({ scheme: 'stock', switchTimeMs: 4000 }),
    run({ case: 'busy', switchTimeMs: 3000 }),
    run({ case: 'home', switchTimeMs: 200 }),
    run({ case: 'busy', scheme: 'stock', switchTimeMs: 6000 }),
  ];
  const rows = switchRows(casesOf('ci', runs)).filter((row) => row.metric === 'switchTimeMs');
  expect(rows.map((row) => [row.case, row.value, row.peerValue, row.ratio])).toEqual([
    ['ci cold rle', 1000, 4000, 0.25],
    ['ci cold zstd', 500, 4000, 0.125],
    ['ci busy rle', 3000, 6000, 0.5],
    ['ci home rle', 200, 4000, 0.05],
  ]);
  expect(rows[0]?.peer).toBe(PEER);
});

test('medians of all runs; percentiles only where there is more than one', () => {
  const one = switchRows(casesOf('ci', [run({}), run({ scheme: 'stock' })]));
  expect(one.map((row) => row.metric)).toEqual([
    'switchTimeMs',
    'downtimeMs',
    'totalTimeMs',
    'serviceGapMs',
    'migratedMiB',
    'oneWayDelayMs',
  ]);
  const three = [10, 30, 20].flatMap((downtimeMs) => [run({ downtimeMs }), run({ scheme: 'stock' })]);
  const rows = switchRows(casesOf('ci', three));
  expect(rows.find((row) => row.metric === 'downtimeMs')?.value).toBe(20);
  expect(rows.find((row) => row.metric === 'downtimeP95Ms')?.value).toBe(30);
});

test('a run that completed as pre-copy is named in the notes; without stock there is no peer', () => {
  const rows = switchRows(casesOf('ci', [run({ completedAsPrecopy: true }), run({})]));
  expect(rows[0]).toMatchObject({
    notes: '2 runs; 1 of ours completed as pre-copy',
    peer: null,
    ratio: null,
  });
});

test('phases are medians by case and scheme', () => {
  const phases = (startMs: number) => [{ name: 'drain', startMs, endMs: startMs + 10 * startMs }];
  const runs = [run({ phases: phases(1) }), run({ phases: phases(3) }), run({ case: 'busy' })];
  expect(phaseMedians(runs)).toEqual([{ scheme: 'cold rle', phase: 'drain', startMs: 2, lengthMs: 20 }]);
});
