import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { sleep } from '../../base/async.ts';
import { fail } from './errors.ts';

const ANSWER_TIMEOUT_MS = 120_000;
const PING_INTERVAL_MS = 300;
/** The serial port echoes nothing and answers are short; more than this is no answer of the workload. */
const MAX_PENDING_LINES = 10_000;

/** One answer: the whole line, and its `key=value` fields. */
export interface WorkloadAnswer {
  readonly line: string;
  readonly ok: boolean;
  readonly fields: ReadonlyMap<string, number>;
}

/** Speaks to the self-checking workload in a guest, over QEMU's socket of its serial port (docs/GUESTS.md). */
export class WorkloadClient implements Disposable {
  readonly #socket: Socket;
  readonly #lines: string[] = [];
  #rest = '';
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('latin1');
    socket.on('error', () => {});
    socket.on('data', (data: string) => {
      const parts = (this.#rest + data).split('\n');
      this.#rest = (parts.pop() ?? '').slice(-4096);
      this.#lines.push(...parts.map((line) => line.replace(/\r$/, '')));
      if (this.#lines.length > MAX_PENDING_LINES)
        this.#lines.splice(0, this.#lines.length - MAX_PENDING_LINES);
      this.#wake();
    });
  }

  static async connect(socketPath: string): Promise<WorkloadClient> {
    const socket = connect(socketPath);
    await once(socket, 'connect');
    return new WorkloadClient(socket);
  }

  /** Asks until the workload answers: what is sent before it has opened its port is lost. @throws GUEST_SILENT */
  async ready(options: { timeoutMs?: number; signal?: AbortSignal } = {}): Promise<void> {
    const deadlineMs = performance.now() + (options.timeoutMs ?? ANSWER_TIMEOUT_MS);
    while (performance.now() < deadlineMs) {
      options.signal?.throwIfAborted();
      this.#socket.write('\nping\n');
      const answered = await this.next('ping ok', PING_INTERVAL_MS).catch(() => undefined);
      if (answered === undefined) continue;
      // answers to earlier pings may still come
      await sleep(PING_INTERVAL_MS, options.signal);
      this.#lines.length = 0;
      return;
    }
    throw fail('GUEST_SILENT', 'no answer to ping');
  }

  /** Gives one command and waits for its answer. @throws GUEST_SILENT */
  async command(text: string, timeoutMs = ANSWER_TIMEOUT_MS): Promise<WorkloadAnswer> {
    this.#socket.write(`${text}\n`);
    const line = await this.next(`${text.split(' ')[0]} `, timeoutMs);
    const words = line.split(' ');
    const fields = new Map<string, number>();
    for (const word of words.slice(2)) {
      const [key = '', value = ''] = word.split('=');
      fields.set(key, Number(value));
    }
    return { line, ok: words[1] === 'ok', fields };
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }

  /** The first line, not yet taken, that starts with `prefix`; earlier ones are dropped. @throws GUEST_SILENT */
  async next(prefix: string, timeoutMs = ANSWER_TIMEOUT_MS): Promise<string> {
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const at = this.#lines.findIndex((line) => line.startsWith(prefix));
      if (at >= 0) return this.#lines.splice(0, at + 1).at(-1) ?? '';
      if (performance.now() > deadlineMs) throw fail('GUEST_SILENT', `${prefix}, ${timeoutMs} ms`);
      await Promise.race([sleep(100), new Promise<void>((wake) => (this.#wake = wake))]);
    }
  }
}
