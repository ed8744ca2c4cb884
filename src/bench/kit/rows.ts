import { significant } from './stats.ts';

/** One figure of a benchmark, beside what it is compared with. Names of metrics end in their unit. */
export interface Row {
  case: string;
  metric: string;
  value: number | null;
  /** What stands beside it; null where nothing does. */
  peer: string | null;
  peerValue: number | null;
  /** value / peerValue. */
  ratio: number | null;
  /** What a reader must know about this case. */
  notes?: string;
}

export interface Peer {
  name: string;
  value: number;
}

/** A row with rounded figures; what is not a finite number becomes null. */
export function makeRow(
  name: string,
  metric: string,
  value: number,
  options: { peer?: Peer | undefined; notes?: string | undefined } = {},
): Row {
  const { peer, notes } = options;
  return {
    case: name,
    metric,
    value: figure(value),
    peer: peer?.name ?? null,
    peerValue: peer ? figure(peer.value) : null,
    ratio: peer ? figure(value / peer.value, 3) : null,
    ...(notes === undefined || notes === '' ? {} : { notes }),
  };
}

function figure(value: number, digits?: number): number | null {
  return Number.isFinite(value) ? significant(value, digits) : null;
}

/** Columns as wide as their widest cell; the first `left` are aligned to the left, the others to the right. */
export function alignedTable(lines: readonly (readonly string[])[], left = 1): string {
  const widths: number[] = [];
  for (const line of lines) {
    for (const [i, cell] of line.entries()) widths[i] = Math.max(widths[i] ?? 0, cell.length);
  }
  const pad = (cell: string, i: number): string =>
    i < left ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0);
  return lines.map((line) => `${line.map(pad).join('  ').trimEnd()}\n`).join('');
}

/** A line a row; notes below, each once. */
export function rowsTable(rows: readonly Row[]): string {
  const text = (value: number | null): string => (value === null ? '-' : String(value));
  const hasPeer = rows.some((row) => row.peer !== null);
  const head = ['case', 'metric', 'cloudap', ...(hasPeer ? ['peer', 'peer value', 'ratio'] : [])];
  const lines = rows.map((row) => [
    row.case,
    row.metric,
    text(row.value),
    ...(hasPeer ? [row.peer ?? '-', text(row.peerValue), text(row.ratio)] : []),
  ]);
  const notes = new Set(rows.flatMap((row) => (row.notes ? [`${row.case}: ${row.notes}`] : [])));
  return alignedTable([head, ...lines], 2) + [...notes].map((note) => `  ${note}\n`).join('');
}

/** A line a case, a column a metric: for benchmarks without a peer. */
export function metricsTable(rows: readonly Row[]): string {
  const metrics = [...new Set(rows.map((row) => row.metric))];
  const cases = [...new Set(rows.map((row) => row.case))];
  const cell = (name: string, metric: string): string =>
    String(rows.find((row) => row.case === name && row.metric === metric)?.value ?? '-');
  return alignedTable([
    ['case', ...metrics],
    ...cases.map((name) => [name, ...metrics.map((m) => cell(name, m))]),
  ]);
}
