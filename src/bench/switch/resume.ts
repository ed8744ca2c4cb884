import { z } from 'zod';
import { failBench } from '../kit/errors.ts';
import { readReport } from '../kit/report.ts';
import { benchCases, benchCodecs, type SwitchRun } from './run.ts';

/** What rows are made of; the rest of a run is kept as it is. */
const runSchema = z.looseObject({
  scheme: z.enum([...benchCodecs, 'stock']),
  case: z.enum(benchCases),
  run: z.number().int().positive(),
  switchTimeMs: z.number(),
  downtimeMs: z.number(),
  totalTimeMs: z.number(),
  migratedBytes: z.number(),
  linkBytes: z.number(),
  /** JSON knows no NaN: a run in which the guest never answered. */
  serviceGapMs: z
    .number()
    .nullable()
    .transform((gap) => gap ?? Number.NaN),
  completedAsPrecopy: z.boolean(),
  phases: z.array(z.object({ name: z.string(), startMs: z.number(), endMs: z.number() })),
  loadAverage: z.number(),
  details: z.record(z.string(), z.unknown()),
});

/** Options that change what is done, but not what a run is. */
const FREE = new Set(['--json', '--runs']);

/**
 * The runs in a report that the same command line has left behind; none where there is no file yet.
 * @throws BENCH_RESUME where the file is of another one
 */
export async function runsOf(path: string, args: readonly string[]): Promise<SwitchRun[]> {
  let report;
  try {
    report = await readReport(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw failBench('BENCH_RESUME', path, { cause });
  }
  const [then, now] = [comparable(report.arguments), comparable(args)];
  if (report.benchmark !== 'bench:switch' || then !== now)
    throw failBench('BENCH_RESUME', `${path}: it was measured with ${then || 'no options'}`);
  const runs = z.array(runSchema).safeParse(report['runs']);
  if (!runs.success) throw failBench('BENCH_RESUME', `${path}: ${z.prettifyError(runs.error)}`);
  return runs.data;
}

/** Options with their values, in an order of their own. */
function comparable(args: readonly string[]): string {
  const options: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const [name = '', value] = (args[i] ?? '').split('=', 2);
    const next = args[i + 1];
    const separate = value === undefined && next !== undefined && !next.startsWith('--');
    if (separate) i++;
    if (name === '--resume' || FREE.has(name)) continue;
    options.push([name, ...(separate ? [next] : value === undefined ? [] : [value])].join(' '));
  }
  return options.toSorted().join(' ');
}

/** Of these cases those that such a run has not been made of yet. */
export function missing<T extends string>(
  results: readonly SwitchRun[],
  { run, scheme }: Pick<SwitchRun, 'run' | 'scheme'>,
  cases: readonly T[],
): T[] {
  return cases.filter(
    (name) => !results.some((one) => one.run === run && one.scheme === scheme && one.case === name),
  );
}
