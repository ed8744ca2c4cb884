import { readdir, readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';

const INTERVAL_MS = 50;
/** The kernel counts CPU time in hundredths of a second (proc(5), sysconf(_SC_CLK_TCK)). */
const TICK_MS = 10;
/** From here on a link, or all processors, count as what a run waited for. */
const FULL = 0.9;

const programs: readonly (readonly [RegExp, string])[] = [
  [/qemu-system/, 'QEMU'],
  [/mover\/main\.ts/, 'mover'],
  [/gateway/, 'gateway'],
];

/** CPU time of one process so far. */
interface ProcessTime {
  readonly pid: number;
  readonly parent: number;
  readonly cpuMs: number;
}

interface Sample {
  readonly atMs: number;
  readonly idleMs: number;
  /** By stage. */
  readonly cpuMs: ReadonlyMap<string, number>;
}

/** What a run waited for in a part of its time. */
export interface Limit {
  readonly by: 'link' | 'cpu' | 'neither';
  /** Of the link's rate; null where it is not known. */
  readonly linkUse: number | null;
  /** Of all processors of the machine. */
  readonly cpuUse: number;
  /** Processors that each stage kept busy, the busiest first. */
  readonly stages: readonly { readonly stage: string; readonly cores: number }[];
}

/**
 * Looks on while something runs, at who uses the processors. Stages are processes and their children, by what they are
 * at which side.
 */
export class UseSampler implements Disposable {
  readonly #sides: ReadonlyMap<number, string>;
  readonly #samples: Sample[] = [];
  readonly #timer: NodeJS.Timeout;
  /** Processes that are none of ours, as far as known. */
  readonly #others = new Set<number>();
  readonly #stages = new Map<number, string>();
  #isSampling = false;

  /** `sides`: what a process is called, by its pid; its children go by the same name. */
  constructor(sides: ReadonlyMap<number, string>) {
    this.#sides = sides;
    this.#sample();
    this.#timer = setInterval(() => this.#sample(), INTERVAL_MS);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  /** How often it has looked. */
  get samples(): number {
    return this.#samples.length;
  }

  /**
   * What limited the time between these (Unix times). `bytes` went over the link meanwhile.
   * Undefined where the time was too short to tell.
   */
  limit(
    fromMs: number,
    toMs: number,
    link: { rateMbit: number | undefined; bytes: number },
  ): Limit | undefined {
    const first = this.#samples.findLast(({ atMs }) => atMs <= fromMs);
    const last = this.#samples.find(({ atMs }) => atMs >= toMs);
    if (!first || !last || toMs - fromMs < 2 * INTERVAL_MS) return undefined;
    const lengthMs = last.atMs - first.atMs;
    const stages = [...last.cpuMs]
      .map(([stage, cpuMs]) => ({ stage, cores: (cpuMs - (first.cpuMs.get(stage) ?? 0)) / lengthMs }))
      .filter(({ cores }) => cores > 0)
      .toSorted((a, b) => b.cores - a.cores);
    const cpuUse = 1 - (last.idleMs - first.idleMs) / (lengthMs * availableParallelism());
    const linkUse =
      link.rateMbit === undefined ? null : (link.bytes * 8) / (link.rateMbit * 1000 * (toMs - fromMs));
    return limitOf(linkUse, cpuUse, stages);
  }

  #sample(): void {
    if (this.#isSampling) return;
    this.#isSampling = true;
    void this.#take().finally(() => {
      this.#isSampling = false;
    });
  }

  async #take(): Promise<void> {
    const [stat, pids] = await Promise.all([readFile('/proc/stat', 'utf8'), readdir('/proc')]);
    const wanted = pids.map(Number).filter((pid) => pid > 0 && !this.#others.has(pid));
    const atMs = Date.now();
    const cpuMs = new Map<string, number>();
    for (const found of await Promise.all(wanted.map(processTime))) {
      if (!found) continue;
      const stage = await this.#stageOf(found);
      if (stage !== undefined) cpuMs.set(stage, (cpuMs.get(stage) ?? 0) + found.cpuMs);
      // a process that was there before and is none of ours will not become so
      else if (this.#samples.length === 0) this.#others.add(found.pid);
    }
    this.#samples.push({ atMs, idleMs: idleOf(stat), cpuMs });
  }

  async #stageOf({ pid, parent }: ProcessTime): Promise<string | undefined> {
    const side = this.#sides.get(pid) ?? this.#sides.get(parent);
    if (side === undefined) return undefined;
    const known = this.#stages.get(pid);
    if (known !== undefined) return known;
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const [, program] = programs.find(([pattern]) => pattern.test(command)) ?? [];
    const stage = `${side} ${program ?? 'agent'}`;
    // a child may be about to become another program
    if (program !== undefined || this.#sides.has(pid)) this.#stages.set(pid, stage);
    return stage;
  }
}

/** Whoever uses nearly all of what there is has the others wait. */
export function limitOf(linkUse: number | null, cpuUse: number, stages: Limit['stages']): Limit {
  const busiest = stages[0]?.cores ?? 0;
  const by =
    linkUse !== null && linkUse >= FULL ? 'link' : Math.max(cpuUse, busiest) >= FULL ? 'cpu' : 'neither';
  return { by, linkUse, cpuUse, stages };
}

/** For a line of text. */
export function limitText({ by, linkUse, cpuUse, stages }: Limit): string {
  const percent = (share: number): string => `${Math.round(100 * share)} %`;
  const [busiest] = stages;
  return (
    `limit of round one: ${by} (link ${linkUse === null ? 'unknown' : percent(linkUse)}, processors ${percent(cpuUse)}` +
    `${busiest ? `, busiest ${busiest.stage} with ${busiest.cores.toFixed(2)} of one` : ''})`
  );
}

/** Undefined where it has ended. */
async function processTime(pid: number): Promise<ProcessTime | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  const parsed = /^\d+ \(.*\) \S (\d+) (?:\S+ ){9}(\d+) (\d+) /s.exec(stat);
  if (!parsed) return undefined;
  const [, parent, user, system] = parsed;
  return { pid, parent: Number(parent), cpuMs: (Number(user) + Number(system)) * TICK_MS };
}

/** Idle and waiting for disks, of all processors. */
function idleOf(stat: string): number {
  const [, , , , idle, wait] = (stat.split('\n')[0] ?? '').split(/\s+/);
  return (Number(idle) + Number(wait)) * TICK_MS;
}
