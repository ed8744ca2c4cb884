import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { sleep } from '../../base/async.ts';
import { limitOf, limitText, UseSampler } from './use.ts';

const stages = [{ stage: 'source mover', cores: 0.6 }];

test('whoever uses nearly all of what there is is the limit', () => {
  expect(limitOf(0.95, 0.99, stages).by).toBe('link');
  expect(limitOf(0.5, 0.95, stages).by).toBe('cpu');
  expect(limitOf(0.5, 0.5, stages).by).toBe('neither');
  expect(limitOf(null, 0.5, [{ stage: 'target QEMU', cores: 0.97 }]).by).toBe('cpu');
  expect(limitText(limitOf(0.5, 0.5, stages))).toContain('busiest source mover with 0.60 of one');
  expect(limitText(limitOf(null, 0.5, []))).toContain('link unknown');
});

test('a child that does nothing but count is seen, by the name of its parent', async () => {
  const fromMs = Date.now();
  using use = new UseSampler(new Map([[process.pid, 'here']]));
  while (use.samples === 0) await sleep(10);
  const child = spawn(process.execPath, [
    '-e',
    'for (const until = Date.now() + 700; Date.now() < until; );',
  ]);
  const beganMs = Date.now();
  await once(child, 'exit');
  const endedMs = Date.now();
  const samples = use.samples;
  while (use.samples < samples + 2) await sleep(10);
  const link = { rateMbit: 8, bytes: 1000 * (endedMs - beganMs) };
  const limit = use.limit(beganMs, endedMs, link);
  expect(limit?.stages.map(({ stage }) => stage)).toContain('here agent');
  expect(limit?.linkUse).toBeCloseTo(1);
  expect(limit?.by).toBe('link');
  expect(use.limit(fromMs - 1000, endedMs, link)).toBeUndefined();
  expect(use.limit(beganMs, beganMs + 20, link)).toBeUndefined();
});
