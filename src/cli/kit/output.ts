import { asCloudapError, cancelledError, type CloudapError, errorCatalogue } from '../../base/errors.ts';
import { EXIT_CANCELLED, EXIT_FAILED, EXIT_UNREACHABLE, EXIT_USAGE } from './constants.ts';

export const failUsage = errorCatalogue({
  USAGE: {
    summary: 'the command line is not valid',
    remedy: '`cloudap --help` lists the commands, `cloudap COMMAND --help` the options of one.',
  },
});

/** Where a command prints; the real streams in life, strings in tests. */
export interface Output {
  out(text: string): void;
  err(text: string): void;
  readonly tty: boolean;
  readonly columns: number;
}

export const processOutput: Output = {
  out: (text) => void process.stdout.write(text),
  err: (text) => void process.stderr.write(text),
  get tty() {
    return process.stderr.isTTY && process.env.TERM !== 'dumb';
  },
  get columns() {
    return process.stderr.columns ?? 80;
  },
};

/** `--json`: one document on stdout. */
export function printJson(output: Output, value: unknown): void {
  output.out(`${JSON.stringify(value, null, 2)}\n`);
}

/** Aligned columns; the last one is not padded. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...all.map((row) => (row[i] ?? '').length)));
  return all
    .map((row) =>
      row
        .map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd(widths[i] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .map((line) => `${line}\n`)
    .join('');
}

/** Prints a failure as two lines (or JSON on stderr) and says with which code to exit. */
export function reportError(output: Output, thrown: unknown, json: boolean): number {
  const error = isAbort(thrown) ? cancelledError() : asCloudapError(thrown);
  if (json) output.err(`${JSON.stringify({ error })}\n`);
  else output.err(`${error.code}: ${error.message}\n  ${error.remedy}\n`);
  if (error.code === 'INTERNAL' && process.env.CLOUDAP_DEBUG)
    output.err(`${error.stack}\n${(error.cause as Error | undefined)?.stack ?? ''}\n`);
  return exitCode(error);
}

const cancelled: ReadonlySet<string> = new Set([
  'CANCELLED',
  'MIGRATE_CANCELLED',
  'STAGE_CANCELLED',
  'TEMPLATE_CANCELLED',
]);

function exitCode(error: CloudapError): number {
  if (error.code === 'USAGE') return EXIT_USAGE;
  if (error.code === 'SITE_UNREACHABLE') return EXIT_UNREACHABLE;
  if (cancelled.has(error.code)) return EXIT_CANCELLED;
  return EXIT_FAILED;
}

const isAbort = (thrown: unknown): boolean => thrown instanceof Error && thrown.name === 'AbortError';

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const;
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? 'B'}`;
}

export function formatMs(ms: number | null): string {
  if (ms === null) return '-';
  return ms < 1000 ? `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}
