import { cpus } from 'node:os';

/** Share of the processors that was busy since the last call, 0 to 1. */
export class CpuLoad {
  #last = times();

  next(): number {
    const now = times();
    const total = now.total - this.#last.total;
    const idle = now.idle - this.#last.idle;
    this.#last = now;
    return total <= 0 ? 0 : Math.min(1, Math.max(0, 1 - idle / total));
  }
}

function times(): { idle: number; total: number } {
  let idle = 0;
  let total = 0;
  for (const { times: t } of cpus()) {
    idle += t.idle;
    total += t.user + t.nice + t.sys + t.idle + t.irq;
  }
  return { idle, total };
}
