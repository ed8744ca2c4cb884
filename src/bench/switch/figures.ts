import { alignedTable, makeRow, type Row } from '../kit/rows.ts';
import { median, quantile, significant } from '../kit/stats.ts';
import type { SwitchRun } from './run.ts';

export const PEER = 'stock QEMU hybrid';
const MIB = 2 ** 20;
const HIGH = 0.95;

const metrics: readonly { name: string; high?: string; of: (run: SwitchRun) => number }[] = [
  { name: 'switchTimeMs', high: 'switchTimeP95Ms', of: (run) => run.switchTimeMs },
  { name: 'downtimeMs', high: 'downtimeP95Ms', of: (run) => run.downtimeMs },
  { name: 'totalTimeMs', high: 'totalTimeP95Ms', of: (run) => run.totalTimeMs },
  { name: 'serviceGapMs', of: (run) => run.serviceGapMs },
  { name: 'migratedMiB', of: (run) => run.migratedBytes / MIB },
];

/** One case: the runs of one codec, beside stock QEMU's. */
export interface SwitchCase {
  name: string;
  ours: readonly SwitchRun[];
  stock: readonly SwitchRun[];
}

/**
 * Groups runs by case and codec, in the order of the first occurrence. Stock QEMU, to which a template or a former stay means
 * nothing, is measured cold for these, too.
 */
export function casesOf(guest: string, runs: readonly SwitchRun[]): SwitchCase[] {
  const cases: SwitchCase[] = [];
  for (const { case: kind, scheme } of runs) {
    const name = `${guest} ${kind} ${scheme}`;
    if (scheme === 'stock' || cases.some((known) => known.name === name)) continue;
    const peer = kind === 'busy' ? 'busy' : 'cold';
    cases.push({
      name,
      ours: runs.filter((run) => run.case === kind && run.scheme === scheme),
      stock: runs.filter((run) => run.case === peer && run.scheme === 'stock'),
    });
  }
  return cases;
}

/** Medians, and 95th percentiles (nearest rank) where there is more than one run. */
export function switchRows(cases: readonly SwitchCase[]): Row[] {
  return cases.flatMap(({ name, ours, stock }) => {
    const notes = notesOf(ours, stock);
    return metrics
      .flatMap(({ name: metric, high, of }) => {
        const row = (label: string, figure: (values: readonly number[]) => number): Row =>
          makeRow(name, label, figure(ours.map(of)), {
            peer: stock.length > 0 ? { name: PEER, value: figure(stock.map(of)) } : undefined,
            notes,
          });
        const rows = [row(metric, median)];
        if (high !== undefined && ours.length > 1) rows.push(row(high, (values) => quantile(values, HIGH)));
        return rows;
      })
      .concat(
        makeRow(name, 'oneWayDelayMs', median(ours.map((run) => run.oneWayDelayMs ?? Number.NaN)), { notes }),
      );
  });
}

function notesOf(ours: readonly SwitchRun[], stock: readonly SwitchRun[]): string {
  const precopy = (runs: readonly SwitchRun[]): number => runs.filter((run) => run.completedAsPrecopy).length;
  const notes = [`${ours.length} runs`];
  if (precopy(ours) > 0) notes.push(`${precopy(ours)} of ours completed as pre-copy`);
  if (precopy(stock) > 0) notes.push(`${precopy(stock)} of stock completed as pre-copy`);
  return notes.join('; ');
}

export interface PhaseMedian {
  scheme: string;
  phase: string;
  startMs: number;
  lengthMs: number;
}

/** Where the time goes: medians of each phase's begin and length, per case and scheme. */
export function phaseMedians(runs: readonly SwitchRun[]): PhaseMedian[] {
  const result: PhaseMedian[] = [];
  for (const scheme of new Set(runs.map((run) => `${run.case} ${run.scheme}`))) {
    const those = runs.filter((run) => `${run.case} ${run.scheme}` === scheme);
    for (const phase of new Set(those.flatMap((run) => run.phases.map(({ name }) => name)))) {
      const found = those.flatMap((run) => run.phases.filter(({ name }) => name === phase));
      result.push({
        scheme,
        phase,
        startMs: significant(median(found.map(({ startMs }) => startMs))),
        lengthMs: significant(median(found.map(({ startMs, endMs }) => endMs - startMs))),
      });
    }
  }
  return result;
}

export function phasesTable(phases: readonly PhaseMedian[]): string {
  return alignedTable(
    [
      ['where the time goes', 'phase', 'from ms', 'length ms'],
      ...phases.map((p) => [p.scheme, p.phase, String(p.startMs), String(p.lengthMs)]),
    ],
    2,
  );
}
