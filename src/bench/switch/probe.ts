import { existsSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { sleep } from '../../base/async.ts';

const INTERVAL_MS = 5;
/** A ping without an answer is sent again after this: the first may have gone to a VM that stands still. */
const REPEAT_MS = 25;
const SETTLE_MS = 2_000;

/**
 * A client of the guest: asks its workload every 5 ms over a serial port, at the old place and the new one alike, and notes
 * when answers come. What it sees is the service gap: the longest time without one.
 */
export class ServiceProbe implements Disposable {
  readonly #paths: readonly string[];
  readonly #sockets = new Map<string, Socket>();
  readonly #timer: NodeJS.Timeout;
  #answeredAtMs = performance.now();
  #askedAtMs = 0;
  #pending = false;
  #longestMs = 0;
  #answers = 0;

  /** `paths`: sockets of the port; one that is not there yet is looked for again and again. */
  constructor(paths: readonly string[]) {
    this.#paths = paths;
    this.#timer = setInterval(() => this.#ask(), INTERVAL_MS);
  }

  /** Longest time without an answer so far, ms; NaN where none ever came. */
  get gapMs(): number {
    return this.#answers > 1 ? this.#longestMs : Number.NaN;
  }

  /** Asks no more, and waits until the guest has answered what it was asked: the port's next user finds it idle. */
  async settle(): Promise<void> {
    clearInterval(this.#timer);
    for (let waitedMs = 0; this.#pending && waitedMs < SETTLE_MS; waitedMs += INTERVAL_MS)
      await sleep(INTERVAL_MS);
    // answers to what was asked twice
    await sleep(2 * REPEAT_MS);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    for (const socket of this.#sockets.values()) socket.destroy();
  }

  #ask(): void {
    for (const path of this.#paths) if (!this.#sockets.has(path) && existsSync(path)) this.#open(path);
    const now = performance.now();
    if (this.#pending && now - this.#askedAtMs < REPEAT_MS) return;
    this.#pending = true;
    this.#askedAtMs = now;
    for (const socket of this.#sockets.values()) if (socket.writableLength === 0) socket.write('ping\n');
  }

  #open(path: string): void {
    const socket = connect(path);
    this.#sockets.set(path, socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(path));
    socket.on('data', () => this.#answered());
  }

  #answered(): void {
    const now = performance.now();
    if (this.#answers > 0) this.#longestMs = Math.max(this.#longestMs, now - this.#answeredAtMs);
    this.#answeredAtMs = now;
    this.#answers += 1;
    this.#pending = false;
  }
}
