/**
 * Chooses how well memory is compressed while round one runs: better where the link is what takes the time and the
 * CPU has some to spare, worse where the link waits for the CPU. A pure function of what was measured: no clock, no threads.
 */

export interface CodecStep {
  /** Level of zstd; 0: not compressed at all, for links that are faster than that. */
  readonly zstdLevel: number;
  /** Time for a byte against level 1, as measured on a process's memory. It only predicts: what is measured counts. */
  readonly cost: number;
}

/**
 * Levels 4, 7 and 8 gain next to nothing over the one below; above 9 a core makes less than 50 MB/s. Frames stay as large as
 * they are: four times as large they would be 3 percent smaller, but what zstd needs for each would cost a mover 50 MiB.
 */
export const CODEC_STEPS: readonly CodecStep[] = [
  { zstdLevel: 0, cost: 0 },
  { zstdLevel: 1, cost: 1 },
  { zstdLevel: 2, cost: 1.3 },
  { zstdLevel: 3, cost: 1.5 },
  { zstdLevel: 5, cost: 3.6 },
  { zstdLevel: 6, cost: 4.9 },
  { zstdLevel: 9, cost: 7 },
];
const START = 1;

/** Where the fastest level is still what holds things up, going without is tried at most every so many intervals. */
const RAW_AGAIN_INTERVALS = 16;
/** At most so many steps up at a time: the costs are a prediction. */
const STEPS_UP = 2;
/** A better level may take this share of the time that the link takes, on the threads that there are. */
const MAY_TAKE = 0.6;
/** The link is the bottleneck where sending waits for it this share of the time, and it carries this share of its rate. */
const LINK_WAITS = 0.3;
const LINK_USED = 0.6;
/** The CPU is, where frames wait to be packed this share of the time, and sending hardly for the link. */
const PACK_WAITS = 0.3;
const LINK_IDLE = 0.1;

/** What happened in some hundred milliseconds of round one. */
export interface CodecInterval {
  readonly elapsedMs: number;
  /** Bodies, and what of their frames went to the link. */
  readonly bodyBytes: number;
  readonly sentBytes: number;
  /** Bodies that were packed, and the time for it, of all threads together. */
  readonly packedBodyBytes: number;
  readonly packMs: number;
  /** How long the next frame to be sent was not packed yet, and how long the link had no room for it. */
  readonly packWaitMs: number;
  readonly linkWaitMs: number;
  /** As the link measures it; undefined where it does not know yet. */
  readonly rateMbit: number | undefined;
}

export class CodecControl {
  readonly #threads: number;
  #at = START;
  /** Milliseconds that one thread takes for a byte at level 1, from what was packed last. */
  #baseMs: number | undefined;
  #rawHold = 0;

  /** `threads` may pack at once. */
  constructor(threads: number) {
    this.#threads = threads;
  }

  get step(): CodecStep {
    return CODEC_STEPS[this.#at] as CodecStep;
  }

  /** The step for what comes next. */
  decide(interval: CodecInterval): CodecStep {
    const { elapsedMs, bodyBytes, packedBodyBytes, packMs } = interval;
    if (this.#rawHold > 0) this.#rawHold -= 1;
    if (!(elapsedMs > 0) || bodyBytes === 0) return this.step;
    const { cost } = this.step;
    if (cost > 0 && packedBodyBytes > 0) this.#baseMs = packMs / packedBodyBytes / cost;
    const paceMs = elapsedMs / bodyBytes;
    if (this.#at === 0) this.#fromRaw(paceMs);
    else if (linkIsBottleneck(interval)) this.#up(paceMs);
    else if (cpuIsBottleneck(interval)) this.#down();
    return this.step;
  }

  /** Time that packing takes for a byte, all threads at work. */
  #packingMs(at: number): number {
    return ((this.#baseMs ?? 0) * (CODEC_STEPS[at]?.cost ?? 0)) / this.#threads;
  }

  #fromRaw(paceMs: number): void {
    if (this.#packingMs(START) <= paceMs) this.#at = START;
  }

  #up(paceMs: number): void {
    const highest = Math.min(CODEC_STEPS.length - 1, this.#at + STEPS_UP);
    for (let at = highest; at > this.#at; at--) {
      if (this.#packingMs(at) > MAY_TAKE * paceMs) continue;
      this.#at = at;
      return;
    }
  }

  #down(): void {
    if (this.#at > START) this.#at -= 1;
    else if (this.#rawHold === 0) {
      this.#at = 0;
      this.#rawHold = RAW_AGAIN_INTERVALS;
    }
  }
}

function linkIsBottleneck({ elapsedMs, linkWaitMs, sentBytes, rateMbit }: CodecInterval): boolean {
  // Sending waits for the target too, where that is slow: then smaller frames are of no use.
  const used = rateMbit === undefined || (8 * sentBytes) / 1000 / elapsedMs >= LINK_USED * rateMbit;
  return used && linkWaitMs >= LINK_WAITS * elapsedMs;
}

function cpuIsBottleneck({ elapsedMs, packWaitMs, linkWaitMs }: CodecInterval): boolean {
  return packWaitMs >= PACK_WAITS * elapsedMs && linkWaitMs <= LINK_IDLE * elapsedMs;
}
