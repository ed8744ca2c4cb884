import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

export interface QemuNbd extends AsyncDisposable {
  readonly pid: number;
  readonly path: string;
  /** Ends it as a crash would. */
  kill(): Promise<void>;
}

/** A `qemu-nbd` on a Unix socket that ends with its scope; `args` are its options and, last, the image. */
export async function startQemuNbd(path: string, args: readonly string[]): Promise<QemuNbd> {
  const child = spawn('qemu-nbd', ['--persistent', '--shared=8', `--socket=${path}`, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  const exited = once(child, 'exit');
  for (let i = 0; !existsSync(path); i += 1) {
    if (child.exitCode !== null || i > 1000) {
      child.kill('SIGKILL');
      throw new Error(`qemu-nbd did not start: ${said}`);
    }
    await delay(10);
  }
  const end = async (signal: NodeJS.Signals) => {
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await exited;
  };
  return {
    pid: child.pid ?? 0,
    path,
    kill: () => end('SIGKILL'),
    [Symbol.asyncDispose]: () => end('SIGTERM'),
  };
}
