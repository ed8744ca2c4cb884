import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { buckets, median, quantile, significant, sparkline } from './stats.ts';

const numbers = fc.array(fc.double({ min: -1e9, max: 1e9, noNaN: true }), { minLength: 1, maxLength: 50 });

describe('median and quantile', () => {
  test('of odd and even counts', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 2, 3])).toBe(2.5);
    expect(median([])).toBeNaN();
  });

  test('nearest rank: the 95th percentile of five runs is the largest', () => {
    expect(quantile([5, 1, 4, 2, 3], 0.95)).toBe(5);
    expect(quantile([5, 1, 4, 2, 3], 0.5)).toBe(3);
    expect(quantile([5, 1, 4, 2, 3], 0)).toBe(1);
    expect(quantile([], 0.5)).toBeNaN();
  });

  test('a quantile is one of the values, and at least its share does not exceed it', () => {
    fc.assert(
      fc.property(numbers, fc.double({ min: 0.01, max: 1, noNaN: true }), (values, fraction) => {
        const found = quantile(values, fraction);
        expect(values).toContain(found);
        const below = values.filter((value) => value <= found).length;
        expect(below / values.length).toBeGreaterThanOrEqual(fraction - 1e-9);
      }),
    );
  });

  test('neither changes its argument', () => {
    const values = [3, 1, 2];
    median(values);
    quantile(values, 0.5);
    expect(values).toEqual([3, 1, 2]);
  });
});

test('significant digits, but no rounding of the units', () => {
  expect(significant(12345.678)).toBe(12346);
  expect(significant(1.23456)).toBe(1.235);
  expect(significant(0.00123456, 3)).toBe(0.00123);
  expect(significant(-12.3456)).toBe(-12.35);
  expect(significant(0)).toBe(0);
});

test('every value is in one bucket, the smallest in the first, the largest in the last', () => {
  fc.assert(
    fc.property(numbers, fc.integer({ min: 1, max: 60 }), (values, count) => {
      const all = buckets(values, count);
      expect(all).toHaveLength(count);
      expect(all.reduce((sum, bucket) => sum + bucket.count, 0)).toBe(values.length);
      expect(all[0]?.count).toBeGreaterThan(0);
      expect(sparkline(all)).toHaveLength(count);
    }),
  );
  expect(buckets([], 4)).toEqual([]);
  expect(sparkline(buckets([1, 1, 1, 2, 4], 4))).toBe('█▅ ▅');
});
