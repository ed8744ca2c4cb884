import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { processAlive } from '../base/process.ts';

/** Tells one process from any other that ever has the same number. To be kept in `vm.json`. */
export const processIdentitySchema = z.strictObject({
  pid: z.int().min(2),
  /** Field 22 of /proc/PID/stat: clock ticks from boot to the process's start (proc(5)). */
  startTicks: z.int().min(0),
  bootId: z.uuid(),
});
export type ProcessIdentity = z.output<typeof processIdentitySchema>;

async function bootId(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
}

/** Identity of the process that has this pid now; undefined if none has, or if it has ended. */
export async function identityOf(pid: number): Promise<ProcessIdentity | undefined> {
  let stat: string;
  try {
    stat = await readFile(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The name, in parentheses, may itself hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state] = fields;
  if (state === 'Z' || state === 'X') return undefined;
  return { pid, startTicks: Number(fields[19]), bootId: await bootId() };
}

/** True while exactly this process runs. */
export async function isAlive(identity: ProcessIdentity): Promise<boolean> {
  if (!processAlive(identity.pid)) return false;
  const now = await identityOf(identity.pid);
  return now?.startTicks === identity.startTicks && now.bootId === identity.bootId;
}

/** Arguments of a running process, its program first; empty if there is no such process. */
export async function argumentsOf(pid: number): Promise<string[]> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0').slice(0, -1);
  } catch {
    return [];
  }
}
