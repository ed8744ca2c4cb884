import { readFile } from 'node:fs/promises';

/** Of Linux: `proc(5)`, in clock ticks of 10 ms. */
const TICKS_PER_S = 100;

/** CPU seconds that a process has used, and its memory in MiB. */
export async function costOf(pid: number): Promise<{ cpuS: number; rssMiB: number }> {
  const [stat, status] = await Promise.all([
    readFile(`/proc/${pid}/stat`, 'utf8'),
    readFile(`/proc/${pid}/status`, 'utf8'),
  ]);
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const cpuS = (Number(fields[11]) + Number(fields[12])) / TICKS_PER_S;
  return { cpuS, rssMiB: Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0) / 1024 };
}
