import { Command } from 'commander';
import { expect, test } from 'vitest';
import { budgetOf, parseBudgetMs, parseDurationMs } from './duration.ts';

test.each([
  ['500ms', 500],
  ['2s', 2000],
  ['1.5s', 1500],
  ['1m', 60_000],
])('%s is %d ms', (text, ms) => {
  expect(parseDurationMs(text)).toBe(ms);
});

test.each(['', '5', 'ms', '-1s', '0ms', '1d', '1 s', '99999999999999999999s', '1e3ms'])(
  '%j is none',
  (text) => {
    expect(() => parseDurationMs(text)).toThrow('must be a time');
  },
);

test.each([
  [['--switch-budget', 'none'], { switchBudgetMs: null }],
  [['--switch-budget', '2s'], { switchBudgetMs: 2000 }],
  [[], {}],
])('a budget for the switch, from the command line to the request: %j', (args, request) => {
  const command = new Command().option('--switch-budget <time>', '', parseBudgetMs);
  const { switchBudget } = command
    .parse(args, { from: 'user' })
    .opts<{ switchBudget?: ReturnType<typeof parseBudgetMs> }>();
  expect(budgetOf(switchBudget)).toEqual(request);
});
