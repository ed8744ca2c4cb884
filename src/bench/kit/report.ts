import { readFile, rename, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { run } from '../../base/process.ts';
import type { Row } from './rows.ts';

/** Where and on what a benchmark ran: absolute figures mean nothing without it. */
export interface Environment {
  node: string;
  qemu: string | null;
  kernel: string;
  cpu: string;
  cores: number;
  memoryMiB: number;
  commit: string | null;
}

/** What `--json FILE` writes. */
export interface Report {
  benchmark: string;
  /** The command line behind `--`, so that a reader can repeat it. */
  arguments: string[];
  startedAt: string;
  endedAt: string;
  environment: Environment;
  /** Load averages of the host (1, 5 and 15 minutes) before and after: what else ran on these cores. */
  loadAverage: { before: number[]; after: number[] };
  rows: Row[];
  /** What the rows were made from, as far as the benchmark keeps it. */
  [detail: string]: unknown;
}

const firstLine = (program: string, args: string[]): Promise<string | null> =>
  run(program, args).then(
    ({ stdout }) => stdout.split('\n')[0]?.trim() ?? null,
    () => null,
  );

export async function environment(): Promise<Environment> {
  const [qemu, commit] = await Promise.all([
    firstLine('qemu-system-x86_64', ['--version']),
    firstLine('git', ['-C', import.meta.dirname, 'describe', '--always', '--dirty']),
  ]);
  return {
    node: process.version,
    qemu,
    kernel: release(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    commit,
  };
}

/** Collects what a report says besides its rows. */
export class ReportWriter {
  readonly #benchmark: string;
  readonly #arguments: string[];
  readonly #startedAt = new Date();
  readonly #loadBefore = loadavg();

  constructor(benchmark: string, args: readonly string[] = process.argv.slice(2)) {
    this.#benchmark = benchmark;
    this.#arguments = [...args];
  }

  async write(
    path: string,
    rows: readonly Row[],
    details: Readonly<Record<string, unknown>> = {},
  ): Promise<Report> {
    const report: Report = {
      benchmark: this.#benchmark,
      arguments: this.#arguments,
      startedAt: this.#startedAt.toISOString(),
      endedAt: new Date().toISOString(),
      environment: await environment(),
      loadAverage: { before: rounded(this.#loadBefore), after: rounded(loadavg()) },
      ...details,
      rows: [...rows],
    };
    await writeFile(`${path}.next`, `${JSON.stringify(report, undefined, 1)}\n`);
    await rename(`${path}.next`, path);
    return report;
  }
}

export async function readReport(path: string): Promise<Report> {
  return JSON.parse(await readFile(path, 'utf8')) as Report;
}

export const rounded = (loads: readonly number[]): number[] =>
  loads.map((load) => Math.round(load * 100) / 100);
