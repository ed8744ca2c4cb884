import { writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { tempDir } from '../../../test/kit/tempdir.ts';
import { missing, runsOf } from './resume.ts';
import type { SwitchRun } from './run.ts';

const run = (change: Partial<SwitchRun>): SwitchRun => ({
  scheme: 'content',
  case: 'cold',
  run: 1,
  switchTimeMs: 1000,
  downtimeMs: 10,
  totalTimeMs: 2000,
  migratedBytes: 2 ** 20,
  linkBytes: 2 ** 20,
  serviceGapMs: 12,
  completedAsPrecopy: false,
  phases: [{ name: 'drain', startMs: 1, endMs: 2 }],
  loadAverage: 0,
  details: { pages: { zero: 1 } },
  ...change,
});

test('goes on with what the same command line has left', async () => {
  await using dir = await tempDir();
  const path = dir.file('out.json');
  const args = ['--guest', 'ci', '--runs', '2', '--json', path];
  expect(await runsOf(path, args)).toEqual([]);
  const runs = [run({}), run({ case: 'home', serviceGapMs: Number.NaN })];
  await writeFile(path, JSON.stringify({ benchmark: 'bench:switch', arguments: args, runs }));
  const again = ['--resume', '--json=elsewhere', '--runs', '5', '--guest=ci'];
  expect(await runsOf(path, again)).toEqual(runs);
  await expect(runsOf(path, [...again, '--quick'])).rejects.toMatchObject({ code: 'BENCH_RESUME' });
  await expect(runsOf(path, ['--guest', 'abiword'])).rejects.toMatchObject({ code: 'BENCH_RESUME' });
});

test.each([
  ['{'],
  [JSON.stringify({ benchmark: 'bench:switch', arguments: [], runs: [{ scheme: 'content' }] })],
  [JSON.stringify({ benchmark: 'bench:pull', arguments: [], runs: [] })],
])('%s is nothing to go on with', async (text) => {
  await using dir = await tempDir();
  await writeFile(dir.file('out.json'), text);
  await expect(runsOf(dir.file('out.json'), [])).rejects.toMatchObject({ code: 'BENCH_RESUME' });
});

test('only what is missing of a run is made', () => {
  const results = [run({}), run({ scheme: 'stock' }), run({ run: 2, case: 'home' })];
  const wanted = ['cold', 'home'] as const;
  expect(missing(results, { run: 1, scheme: 'content' }, wanted)).toEqual(['home']);
  expect(missing(results, { run: 2, scheme: 'content' }, wanted)).toEqual(['cold']);
  expect(missing(results, { run: 1, scheme: 'stock' }, ['cold'])).toEqual([]);
  expect(missing(results, { run: 3, scheme: 'stock' }, ['cold'])).toEqual(['cold']);
});
