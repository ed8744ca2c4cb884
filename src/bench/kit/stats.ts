/** The middle value, or the mean of the two in the middle; NaN without values. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const [low, high] = [sorted[sorted.length - 1 - middle] ?? Number.NaN, sorted[middle] ?? Number.NaN];
  return (low + high) / 2;
}

/** Nearest rank: the smallest value that at least `fraction` of all do not exceed; NaN without values. */
export function quantile(values: readonly number[], fraction: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * fraction) - 1)] ?? Number.NaN;
}

/** Rounded to so many significant digits, but never below the units: 12345 stays 12345. */
export function significant(value: number, digits = 4): number {
  if (!Number.isFinite(value) || value === 0) return value;
  const decimals = Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value))));
  return Number(value.toFixed(Math.min(decimals, 20)));
}

export interface Bucket {
  fromMs: number;
  toMs: number;
  count: number;
}

/** Counts of equal-width buckets from the smallest to the largest value. */
export function buckets(values: readonly number[], count: number): Bucket[] {
  if (values.length === 0) return [];
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const width = (high - low) / count || 1;
  const result = Array.from({ length: count }, (_, i) => ({
    fromMs: low + i * width,
    toMs: low + (i + 1) * width,
    count: 0,
  }));
  for (const value of values) {
    const bucket = result[Math.min(count - 1, Math.floor((value - low) / width))];
    if (bucket) bucket.count += 1;
  }
  return result;
}

const BARS = '▁▂▃▄▅▆▇█';

/** One character a bucket, as high as the square root of its share of the fullest; a space is an empty bucket. */
export function sparkline(all: readonly Bucket[]): string {
  const most = all.reduce((max, { count }) => Math.max(max, count), 1);
  return all
    .map(({ count }) => {
      const height = Math.ceil(Math.sqrt(count / most) * BARS.length);
      return count === 0 ? ' ' : (BARS[height - 1] ?? '█');
    })
    .join('');
}
