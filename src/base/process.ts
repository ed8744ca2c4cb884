import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { errorCatalogue } from './errors.ts';

const fail = errorCatalogue({
  PROGRAM_MISSING: {
    summary: 'a program that CloudAP uses is not installed',
    remedy: 'Run `npm run setup`, or `./cloudap doctor` to see what is missing.',
  },
  PROGRAM_FAILED: {
    summary: 'a helper program failed',
    remedy:
      'The message holds what the program said; `./cloudap doctor` shows whether something is missing here.',
  },
});

const execFileAsync = promisify(execFile);

/** Runs a program to its end. @throws PROGRAM_MISSING, PROGRAM_FAILED (with the end of stderr) */
export async function run(
  program: string,
  args: readonly string[],
  options: { signal?: AbortSignal; timeoutMs?: number; cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<{ stdout: string; stderr: string }> {
  try {
    return await execFileAsync(program, args, {
      maxBuffer: 16 * 1024 * 1024,
      timeout: options.timeoutMs ?? 0,
      ...(options.signal ? { signal: options.signal } : {}),
      ...(options.cwd ? { cwd: options.cwd } : {}),
      ...(options.env ? { env: options.env } : {}),
    });
  } catch (error) {
    options.signal?.throwIfAborted();
    const e = error as NodeJS.ErrnoException & { stderr?: string };
    if (e.code === 'ENOENT') throw fail('PROGRAM_MISSING', program, { cause: error });
    const said = (e.stderr ?? e.message).trim().slice(-800);
    throw fail('PROGRAM_FAILED', `${program} ${args[0] ?? ''}: ${said}`, { cause: error });
  }
}

/** True while a process with this pid runs; one that has ended but was not reaped yet counts as ended. */
export function processAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const state = stat.charAt(stat.lastIndexOf(')') + 2);
    return state !== 'Z' && state !== 'X';
  } catch {
    return false;
  }
}
