import { expect, test } from 'vitest';
import { parseDurationMs } from './duration.ts';

test.each([
  ['500ms', 500],
  ['2s', 2000],
  ['1.5s', 1500],
  ['1m', 60_000],
])('%s is %d ms', (text, ms) => {
  expect(parseDurationMs(text)).toBe(ms);
});

test.each(['', '5', 'ms', '-1s', '0ms', '1h', '1 s', '99999999999999999999s', '1e3ms'])(
  '%j is none',
  (text) => {
    expect(() => parseDurationMs(text)).toThrow('must be a time');
  },
);
