import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, open, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { withTimeout } from '../base/async.ts';
import type { CloudapError } from '../base/errors.ts';
import { optionText } from './command-line.ts';
import { QEMU_KILL_TIMEOUT_MS, QEMU_WATCH_INTERVAL_MS } from './constants.ts';
import { fail } from './errors.ts';
import { logTail } from './log-tail.ts';
import { argumentsOf, identityOf, isAlive, type ProcessIdentity } from './process-identity.ts';
import { checkSocketPath } from './socket-path.ts';

/** How a QEMU ended. Of an adopted process nobody learns code or signal. */
export interface QemuExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** End of the log of this run. */
  readonly logTail: string;
}

/** A process that is watched, started by us or adopted. */
export interface ProcessHandle {
  readonly identity: ProcessIdentity;
  readonly logPath: string;
  readonly logFromBytes: number;
  readonly exited: Promise<QemuExit>;
  readonly stopWatching: () => void;
}

/** Directories of mode 0700 and no leftover sockets: QEMU would refuse to listen over one. */
export async function prepareSockets(sockets: readonly (string | undefined)[]): Promise<void> {
  for (const path of sockets) {
    if (path === undefined) continue;
    checkSocketPath(path);
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await unlink(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
    });
  }
}

/**
 * A shell sets the umask and becomes QEMU (same pid): Node's own umask belongs to the whole process, and every file
 * made meanwhile would get it.
 */
export async function launch(
  program: string,
  args: readonly string[],
  logPath: string,
  env: NodeJS.ProcessEnv | undefined,
): Promise<ProcessHandle> {
  const log = await open(logPath, 'a', 0o600);
  let child: ChildProcess;
  let exited: Promise<QemuExit>;
  let logFromBytes: number;
  try {
    await chmod(logPath, 0o600);
    const fromBytes = (await log.stat()).size;
    logFromBytes = fromBytes;
    child = spawn('/bin/sh', ['-c', 'umask 077; exec "$@"', 'sh', program, ...args], {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      ...(env ? { env } : {}),
    });
    // Before anything else is awaited: a program that fails at once may be gone by then.
    const spawned = once(child, 'spawn');
    exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        void logTail(logPath, fromBytes).then((tail) => resolve({ code, signal, logTail: tail }));
      });
    });
    await spawned;
  } finally {
    await log.close();
  }
  const pid = child.pid as number;
  child.unref();
  const identity = await identityOf(pid);
  if (identity)
    return { identity, logPath, logFromBytes, exited, stopWatching: () => child.removeAllListeners() };
  throw startFailure(program, await exited);
}

export function startFailure(program: string, exit: QemuExit): CloudapError {
  const fields = { exitCode: exit.code, signal: exit.signal, logTail: exit.logTail };
  // 126 and 127 are the shell's own: it could not become QEMU.
  if (exit.code === 127 || exit.code === 126) return fail('QEMU_NOT_FOUND', program, { fields });
  return fail('QEMU_START_FAILED', describeExit(exit), { fields });
}

export function describeExit({ code, signal, logTail }: QemuExit): string {
  const how = signal ? `ended by ${signal}` : code === null ? 'ended' : `exit code ${code}`;
  return logTail === '' ? `${how}, nothing in its log` : `${how}: ${logTail}`;
}

/** An adopted process is no child of ours: its end is seen by looking. */
export function watchProcess(identity: ProcessIdentity, logPath: string): ProcessHandle {
  let timer: NodeJS.Timeout | undefined;
  const exited = new Promise<QemuExit>((resolve) => {
    timer = setInterval(() => {
      void isAlive(identity).then(async (alive) => {
        if (alive) return;
        clearInterval(timer);
        resolve({ code: null, signal: null, logTail: await logTail(logPath) });
      });
    }, QEMU_WATCH_INTERVAL_MS);
    timer.unref();
  });
  return { identity, logPath, logFromBytes: 0, exited, stopWatching: () => clearInterval(timer) };
}

export async function verifyProcess(
  process: ProcessIdentity | number,
  qmpSocket: string,
): Promise<ProcessIdentity> {
  const pid = typeof process === 'number' ? process : process.pid;
  const found = await identityOf(pid);
  const same = typeof process === 'number' || (found !== undefined && (await isAlive(process)));
  const ours = (await argumentsOf(pid)).some((a) => a.includes(optionText('', { path: qmpSocket })));
  if (found && same && ours) return found;
  throw fail('QEMU_NOT_OURS', `process ${pid} is not the one with the monitor ${qmpSocket}`, {
    fields: { pid, qmpSocket },
  });
}

/** True if the promise settled in time. */
export async function within(promise: Promise<unknown>, ms: number): Promise<boolean> {
  return withTimeout(
    promise.then(() => true),
    ms,
    () => new Error('timeout'),
  ).catch(() => false);
}

export async function endProcess(handle: ProcessHandle, graceMs: number): Promise<QemuExit> {
  if (graceMs > 0) {
    await send(handle.identity, 'SIGTERM');
    if (await within(handle.exited, graceMs)) return handle.exited;
  }
  await send(handle.identity, 'SIGKILL');
  if (await within(handle.exited, QEMU_KILL_TIMEOUT_MS)) return handle.exited;
  throw fail('QEMU_UNKILLABLE', `process ${handle.identity.pid}`, { fields: { pid: handle.identity.pid } });
}

async function send(identity: ProcessIdentity, signal: NodeJS.Signals): Promise<void> {
  if (!(await isAlive(identity))) return;
  try {
    process.kill(identity.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
