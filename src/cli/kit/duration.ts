import { InvalidArgumentError } from 'commander';

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/** As below, or `none`; not null, which commander takes for a value that is missing. */
export function parseBudgetMs(text: string): number | 'none' {
  return text === 'none' ? text : parseDurationMs(text);
}

/** The part of a request for a migration that says so: null is none, and without it the site decides. */
export function budgetOf(budget: number | 'none' | undefined): { switchBudgetMs?: number | null } {
  return budget === undefined ? {} : { switchBudgetMs: budget === 'none' ? null : budget };
}

/** `500ms`, `2s`, `1.5s` or `1m` as whole milliseconds, for an option of commander. */
export function parseDurationMs(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text);
  const ms = Math.round(Number(match?.[1]) * (UNITS[match?.[2] ?? ''] ?? Number.NaN));
  if (!Number.isSafeInteger(ms) || ms < 1)
    throw new InvalidArgumentError('It must be a time such as 500ms or 2s.');
  return ms;
}
