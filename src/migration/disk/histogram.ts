/** Buckets per doubling: a percentile is at most 1/16 too large. */
const SUB_BUCKETS = 16;
/** Doublings above 1 µs: up to 2^40 µs, twelve days. */
const OCTAVES = 40;

export interface LatencySummary {
  count: number;
  /** Upper bounds of the buckets that hold the percentile, never above `maxMs`; 0 when there are no samples. */
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
}

/** Latencies in buckets that grow exponentially: fixed memory however many samples. */
export class LatencyHistogram {
  readonly #buckets = new Uint32Array(OCTAVES * SUB_BUCKETS);
  #count = 0;
  #maxMs = 0;

  add(ms: number): void {
    const us = Math.max(1, ms * 1000);
    const index = Math.min(this.#buckets.length - 1, Math.floor(Math.log2(us) * SUB_BUCKETS));
    this.#buckets[index] = (this.#buckets[index] ?? 0) + 1;
    this.#count++;
    this.#maxMs = Math.max(this.#maxMs, ms);
  }

  summary(): LatencySummary {
    return {
      count: this.#count,
      p50Ms: this.#percentile(0.5),
      p99Ms: this.#percentile(0.99),
      maxMs: this.#maxMs,
    };
  }

  #percentile(fraction: number): number {
    let rest = Math.ceil(this.#count * fraction);
    if (rest === 0) return 0;
    for (const [index, count] of this.#buckets.entries()) {
      rest -= count;
      if (rest <= 0) return Math.min(this.#maxMs, 2 ** ((index + 1) / SUB_BUCKETS) / 1000);
    }
    return this.#maxMs;
  }
}
