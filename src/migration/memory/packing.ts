import { availableParallelism } from 'node:os';
import { ZSTD_DEFAULT_LEVEL, zstdPackLater } from '../../wire/codec.ts';
import type { EncodedFrame } from '../../wire/qemu-stream/batch.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { CodecControl, type CodecInterval } from './codec-control.ts';

/** Threads of Node's pool that may pack at once. */
const PACK_THREADS_MAX = 4;
/** How often the level is thought over, and after how many bytes at the earliest. */
const DECIDE_MS = 100;
const DECIDE_BYTES = 1024 * 1024;

/** Levels that were used; 0 stands for not compressed. */
export interface CodecLevels {
  readonly min: number;
  readonly max: number;
  readonly last: number;
}

type Sums = { -readonly [name in Exclude<keyof CodecInterval, 'elapsedMs' | 'rateMbit'>]: number };
const NOTHING: Sums = {
  bodyBytes: 0,
  sentBytes: 0,
  packedBodyBytes: 0,
  packMs: 0,
  packWaitMs: 0,
  linkWaitMs: 0,
};

/**
 * Packs the bodies of round one in other threads, as many as leave a core to this one, and adapts how to what the link
 * and these threads do.
 */
export class Packing {
  /** Undefined where the level is fixed. */
  readonly #control: CodecControl | undefined;
  readonly #rateMbit: () => number | undefined;
  readonly #apply: (zstdLevel: number) => void;
  /** Frames that may be on their way to the link: one that is sent, one that waits, and those being packed. */
  readonly framesAhead: number;
  readonly #threads: number;
  /** Threads at work, and frames that wait for one: more at once would only take more memory. */
  #packing = 0;
  readonly #queue: (() => void)[] = [];
  #level: number;
  #levels: CodecLevels | undefined;
  #sums: Sums = { ...NOTHING };
  #sinceMs = performance.now();

  constructor(options: {
    /** Fixes the level. */
    readonly zstdLevel?: number | undefined;
    readonly rateMbit: () => number | undefined;
    readonly apply: (zstdLevel: number) => void;
  }) {
    const threads = Math.min(PACK_THREADS_MAX, Math.max(1, availableParallelism() - 1));
    this.#threads = threads;
    this.#control = options.zstdLevel === undefined ? new CodecControl(threads) : undefined;
    this.#rateMbit = options.rateMbit;
    this.#apply = options.apply;
    this.framesAhead = threads + 2;
    this.#level = options.zstdLevel ?? ZSTD_DEFAULT_LEVEL;
  }

  /** Undefined while nothing was packed. */
  get levels(): CodecLevels | undefined {
    return this.#levels;
  }

  readonly pack = async (bodies: Buffer, level: number): Promise<Buffer> => {
    if (this.#packing === this.#threads) await new Promise<void>((resolve) => this.#queue.push(resolve));
    else this.#packing += 1;
    const start = performance.now();
    const packed = await zstdPackLater(bodies, level).finally(() => this.#next());
    this.#sums.packMs += performance.now() - start;
    this.#sums.packedBodyBytes += bodies.length;
    return packed;
  };

  /** A frame has been sent, after it was waited for and the link waited for. */
  sent(frame: EncodedFrame, packWaitMs: number, linkWaitMs: number): void {
    const bodies = frame.dataPages - frame.referencedPages - frame.repeatedPages;
    if (bodies > 0) this.#used(this.#level);
    const sums = this.#sums;
    sums.bodyBytes += bodies * PAGE_BYTES;
    sums.sentBytes += frame.payload.length;
    sums.packWaitMs += packWaitMs;
    sums.linkWaitMs += linkWaitMs;
    const control = this.#control;
    const elapsedMs = performance.now() - this.#sinceMs;
    if (!control || elapsedMs < DECIDE_MS || sums.bodyBytes < DECIDE_BYTES) return;
    const before = control.step;
    const step = control.decide({ ...sums, elapsedMs, rateMbit: this.#rateMbit() });
    this.#sums = { ...NOTHING };
    this.#sinceMs += elapsedMs;
    if (step === before) return;
    this.#level = step.zstdLevel;
    this.#apply(step.zstdLevel);
  }

  /** Frames that are waited for from now on: the fastest level. */
  hurry(): void {
    this.#apply(ZSTD_DEFAULT_LEVEL);
  }

  /** A thread is free: whoever waits for one takes it over. */
  #next(): void {
    const next = this.#queue.shift();
    if (next) next();
    else this.#packing -= 1;
  }

  #used(level: number): void {
    const { min, max } = this.#levels ?? { min: level, max: level };
    this.#levels = { min: Math.min(min, level), max: Math.max(max, level), last: level };
  }
}
