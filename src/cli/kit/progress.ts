import { PLAIN_INTERVAL_MS, REDRAW_INTERVAL_MS } from './constants.ts';
import type { Output } from './output.ts';

/**
 * Progress on stderr: on a terminal one line that is redrawn, otherwise plain lines, at most one a second. What is
 * `done` stays as a line of its own.
 */
export class ProgressLine {
  readonly #output: Output;
  readonly #now: () => number;
  #shownAtMs = Number.NEGATIVE_INFINITY;
  #lastPlain = '';
  #drawn = false;

  constructor(output: Output, now: () => number = () => performance.now()) {
    this.#output = output;
    this.#now = now;
  }

  update(text: string): void {
    const now = this.#now();
    const { tty } = this.#output;
    if (now - this.#shownAtMs < (tty ? REDRAW_INTERVAL_MS : PLAIN_INTERVAL_MS)) return;
    if (!tty && text === this.#lastPlain) return;
    this.#shownAtMs = now;
    if (tty) {
      this.#output.err(`\r\u001B[K${text.slice(0, this.#output.columns - 1)}`);
      this.#drawn = true;
    } else {
      this.#output.err(`${text}\n`);
      this.#lastPlain = text;
    }
  }

  /** A line that stays. */
  done(text: string): void {
    this.clear();
    this.#output.err(`${text}\n`);
  }

  clear(): void {
    if (this.#drawn) this.#output.err('\r\u001B[K');
    this.#drawn = false;
    this.#shownAtMs = Number.NEGATIVE_INFINITY;
  }
}

/** `[#####-----]`, `fraction` from 0 to 1. */
export function bar(fraction: number, width = 20): string {
  const filled = Math.round(Math.min(1, Math.max(0, fraction)) * width);
  return `[${'#'.repeat(filled)}${'-'.repeat(width - filled)}]`;
}
