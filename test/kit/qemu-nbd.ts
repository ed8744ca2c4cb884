import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { access } from 'node:fs/promises';
import { sleep } from '../../src/base/async.ts';

/** `qemu-nbd` serving a file's raw bytes, read-only, on a Unix socket; it ends with its scope. */
export async function serveRaw(file: string, socketPath: string): Promise<AsyncDisposable> {
  // Unlocked: a QEMU may still hold the file.
  const image = `driver=raw,file.driver=file,file.filename=${file.replaceAll(',', ',,')},file.locking=off`;
  const child = spawn('qemu-nbd', ['-k', socketPath, '-r', '-t', '-e', '8', '--image-opts', image], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const exited = once(child, 'exit');
  for (;;) {
    if (child.exitCode !== null) throw new Error(`qemu-nbd ended with ${child.exitCode}`);
    try {
      await access(socketPath);
      break;
    } catch {
      await sleep(10);
    }
  }
  return {
    [Symbol.asyncDispose]: async () => {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
