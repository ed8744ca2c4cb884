import { constants, openSync } from 'node:fs';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { join } from 'node:path';
import { run as runProgram } from '../../base/process.ts';
import { HOOK_LINE_MAX_BYTES } from '../constants.ts';

/**
 * A script that other programs call with arguments (dnsmasq, hostapd_cli), each call one line of them, separated by tabs, in a
 * named pipe that we read. Lines are short enough to be written whole (pipe(7), PIPE_BUF). A script that finds nobody
 * reading ends: it never holds up who called it.
 */
export class Hook implements AsyncDisposable {
  readonly script: string;
  readonly #pipe: string;

  private constructor(script: string, pipe: string) {
    this.script = script;
    this.#pipe = pipe;
  }

  static async make(dir: string, name: string): Promise<Hook> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const [script, pipe] = [join(dir, `${name}.sh`), join(dir, `${name}.pipe`)];
    await rm(pipe, { force: true });
    await runProgram('mkfifo', ['-m', '600', pipe]);
    await writeFile(script, scriptText(pipe), { mode: 0o700 });
    await chmod(script, 0o700);
    return new Hook(script, pipe);
  }

  /** Arguments of each call, until `signal` aborts. */
  async *calls(signal: AbortSignal): AsyncGenerator<string[]> {
    // for writing as well: the pipe then has no end when a script closes it
    const fd = openSync(this.#pipe, constants.O_RDWR | constants.O_NONBLOCK);
    // a socket reads a pipe without a thread that waits in it
    const stream = new Socket({ fd, readable: true, writable: false });
    const stop = (): void => void stream.destroy();
    signal.addEventListener('abort', stop, { once: true });
    try {
      if (signal.aborted) return;
      let rest = '';
      for await (const piece of stream.setEncoding('utf8')) {
        const lines = (rest + String(piece)).split('\n');
        rest = lines.pop() ?? '';
        if (rest.length > HOOK_LINE_MAX_BYTES) rest = '';
        for (const line of lines) if (line.length <= HOOK_LINE_MAX_BYTES) yield line.split('\t');
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      signal.removeEventListener('abort', stop);
      stream.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#pipe, { force: true });
  }
}

/** `timeout`: a pipe that is full, or whose reader hangs, must not hold up the caller. */
const scriptText = (pipe: string): string => `#!/bin/sh
# Written by CloudAP: tells its agent what was called, and with what.
[ -p '${pipe}' ] || exit 0
line=$(printf '%s\\t' "$@" | tr -d '\\n' | head -c ${HOOK_LINE_MAX_BYTES - 1})
exec timeout 2 sh -c 'printf "%s\\n" "$1" 1<>"$2"' sh "$line" '${pipe}'
`;
