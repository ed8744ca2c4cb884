import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import { withTimeout } from '../base/async.ts';
import { failLab } from './errors.ts';

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 30_000;
const SAID_CHARS = 2000;

/**
 * A Node process of ours that says one line of JSON when it is ready and answers lines with lines. Ended by its pid
 * when its scope ends.
 */
export class LabChild implements AsyncDisposable {
  readonly ready: unknown;
  readonly #process: ChildProcess;
  readonly #lines: Interface;
  readonly #ended: Promise<never>;

  private constructor(process: ChildProcess, lines: Interface, ended: Promise<never>, ready: unknown) {
    this.#process = process;
    this.#lines = lines;
    this.#ended = ended;
    this.ready = ready;
  }

  /** @param prefix a program that runs the rest of its command line, e.g. elsewhere. @throws LAB_START */
  static async start(args: readonly string[], prefix: readonly string[] = []): Promise<LabChild> {
    // a process group of its own: Ctrl-C at the terminal is for us, we end the others in order
    const [program = '', ...rest] = [...prefix, process.execPath, ...args];
    const child = spawn(program, rest, { stdio: ['pipe', 'pipe', 'pipe'], detached: true });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said = (said + text).slice(-SAID_CHARS);
    });
    const failure = (): Error => failLab('LAB_START', `${args[0]}: ${said}`);
    const lines = createInterface({ input: child.stdout });
    child.stdin.on('error', () => {});
    const ended = once(child, 'exit').then(() => Promise.reject(failure()));
    ended.catch(() => {});
    try {
      const first = Promise.race([once(lines, 'line'), ended]) as Promise<[string]>;
      const [line] = await withTimeout(first, START_TIMEOUT_MS, failure);
      return new LabChild(child, lines, ended, JSON.parse(line));
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  /** One command, one answer. @throws LAB_START when it ends instead */
  async ask(command: string): Promise<unknown> {
    const answer = Promise.race([once(this.#lines, 'line'), this.#ended]) as Promise<[string]>;
    this.#process.stdin?.write(`${command}\n`);
    const [line] = await answer;
    return JSON.parse(line);
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Ends it as a crash does. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#process;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill('SIGTERM');
    const kill = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await exited;
    clearTimeout(kill);
  }
}
