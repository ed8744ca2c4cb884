import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { asCloudapError } from '../../base/errors.ts';
import { failBench } from './errors.ts';
import { ReportWriter } from './report.ts';
import type { Row } from './rows.ts';

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const EXIT_INTERRUPTED = 130;

/** What a benchmark has found. */
export interface Outcome {
  rows: readonly Row[];
  /** Printed; the rows' own table is the benchmark's choice. */
  text: string;
  /** Further keys of the JSON report. */
  details?: Readonly<Record<string, unknown>>;
}

/** `npm run bench:NAME`, with `--json FILE` and `--help`. */
export function benchCommand(name: string, description: string): Command {
  return new Command(`npm run bench:${name} --`)
    .description(description)
    .option(
      '--json <file>',
      'write {environment, loadAverage, rows: [{case, metric, value, peer, peerValue, ratio}], …}',
    )
    .helpOption('--help', 'this text')
    .exitOverride();
}

/**
 * Parses, runs and reports. The signal aborts on SIGINT, SIGTERM and SIGHUP: the benchmark ends what it has started
 * and rejects; what it has given to `save` until then stays in the file of `--json`. Sets the exit code: 1 failed, 2 called wrongly, 130 interrupted.
 */
export async function benchMain(
  command: Command,
  work: (signal: AbortSignal, save: (outcome: Outcome) => Promise<void>) => Promise<Outcome>,
): Promise<void> {
  const interrupted = new AbortController();
  const interrupt = (): void => interrupted.abort(failBench('BENCH_INTERRUPTED'));
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  try {
    const { json } = command.parse().opts<{ json?: string }>();
    for (const name of signals) process.on(name, interrupt);
    const report = new ReportWriter(command.name().split(' ').at(-2) ?? '');
    const save = async ({ rows, details }: Outcome): Promise<void> => {
      if (json !== undefined) await report.write(json, rows, details);
    };
    const outcome = await work(interrupted.signal, save);
    process.stdout.write(outcome.text);
    await save(outcome);
  } catch (error) {
    // commander has said it itself
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? 0 : EXIT_USAGE;
      return;
    }
    const { code, message, remedy } = asCloudapError(interrupted.signal.reason ?? error);
    process.stderr.write(`${code}: ${message}\n  ${remedy}\n`);
    if (process.env['CLOUDAP_DEBUG']) process.stderr.write(`${(error as Error).stack}\n`);
    process.exitCode = interrupted.signal.aborted ? EXIT_INTERRUPTED : EXIT_FAILED;
  } finally {
    for (const name of signals) process.off(name, interrupt);
  }
}

/** For `.option(…, positive)`. */
export function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value < Number.POSITIVE_INFINITY))
    throw new InvalidArgumentError('A number above 0 is expected.');
  return value;
}

/** For `.option(…, count)`. */
export function count(text: string): number {
  const value = positive(text);
  if (!Number.isSafeInteger(value)) throw new InvalidArgumentError('A whole number is expected.');
  return value;
}

/** A line of progress on stderr: what happens now, with the time. */
export function say(text: string): void {
  process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${text}\n`);
}
