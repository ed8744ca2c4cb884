import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { BUILD_KILL_AFTER_MS, BUILD_OUTPUT_KEPT_BYTES, BUILD_STEP_TIMEOUT_MS } from './constants.ts';
import { fail } from './errors.ts';

/** One report of the builder. `fraction` is there when it can be told. */
export interface BuildProgress {
  readonly step: 'packages' | 'kernel' | 'workload' | 'initramfs' | 'rootfs' | 'disk' | 'store';
  readonly fraction?: number;
  readonly detail?: string;
}
export interface BuildCall {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: BuildProgress) => void) | undefined;
}

/** The environment of every builder program: plain messages, and the system folders that a user's PATH lacks. */
export function buildEnvironment(): NodeJS.ProcessEnv {
  return {
    ...process.env,
    LC_ALL: 'C.UTF-8',
    DEBIAN_FRONTEND: 'noninteractive',
    PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/usr/bin:/sbin:/bin`,
  };
}

/**
 * Runs a builder program in a process group of its own. An abort ends the whole group, so that nothing that it
 * started stays behind, and only then rejects.
 * @throws GUEST_TOOL, GUEST_STEP, or the signal's reason
 */
export async function runStep(
  program: string,
  args: readonly string[],
  options: {
    signal?: AbortSignal | undefined;
    cwd?: string;
    env?: NodeJS.ProcessEnv;
    onLine?: (line: string) => void;
  } = {},
): Promise<string> {
  const { signal } = options;
  signal?.throwIfAborted();
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: { ...buildEnvironment(), ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let killTimer: NodeJS.Timeout | undefined;
  const endGroup = () => {
    killGroup(child.pid, 'SIGTERM');
    killTimer ??= setTimeout(() => killGroup(child.pid, 'SIGKILL'), BUILD_KILL_AFTER_MS);
  };
  const timeout = setTimeout(endGroup, BUILD_STEP_TIMEOUT_MS);
  signal?.addEventListener('abort', endGroup, { once: true });
  const stdout: Buffer[] = [];
  let said = '';
  const hear = (line: string) => {
    said = `${said}${line}\n`.slice(-BUILD_OUTPUT_KEPT_BYTES);
    options.onLine?.(line);
  };
  child.stdout.on('data', (data: Buffer) => stdout.push(data));
  createInterface({ input: child.stderr }).on('line', hear);
  if (options.onLine) createInterface({ input: child.stdout }).on('line', options.onLine);
  try {
    const status = await new Promise<number | string | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, name) => resolve(code ?? name));
    });
    signal?.throwIfAborted();
    const output = Buffer.concat(stdout).toString('utf8');
    if (status !== 0) {
      const tail = `${output.slice(-BUILD_OUTPUT_KEPT_BYTES / 4)}${said}`
        .trim()
        .slice(-BUILD_OUTPUT_KEPT_BYTES);
      throw fail('GUEST_STEP', `${program} ended with ${String(status)}: ${tail}`, {
        fields: { program, status },
      });
    }
    return output;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') throw fail('GUEST_TOOL', program, { cause });
    throw cause;
  } finally {
    clearTimeout(timeout);
    clearTimeout(killTimer);
    signal?.removeEventListener('abort', endGroup);
  }
}

function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // The group has ended by itself.
  }
}
