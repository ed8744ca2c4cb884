import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { errorCode } from '../base/errors.ts';
import { Bitmap } from './bitmap.ts';

type Op = { kind: 'set' | 'clear'; from: number; to: number } | { kind: 'next'; from: number; to: number };

/** The obvious implementation, to compare with. */
class Model {
  readonly bits: boolean[];
  constructor(length: number) {
    this.bits = Array.from({ length }, () => false);
  }
  change(from: number, to: number, value: boolean): number {
    let changed = 0;
    for (let i = from; i < to; i++) {
      if (this.bits[i] !== value) changed++;
      this.bits[i] = value;
    }
    return changed;
  }
  next(from: number, to: number, value: boolean): number {
    for (let i = from; i < to; i++) if (this.bits[i] === value) return i;
    return -1;
  }
}

const scenario = fc.integer({ min: 0, max: 300 }).chain((length) =>
  fc.record({
    length: fc.constant(length),
    ops: fc.array(
      fc
        .record({
          kind: fc.constantFrom('set' as const, 'clear' as const, 'next' as const),
          a: fc.nat(length),
          b: fc.nat(length),
        })
        .map(({ kind, a, b }): Op => ({ kind, from: Math.min(a, b), to: Math.max(a, b) })),
      { maxLength: 40 },
    ),
  }),
);

function play({ length, ops }: { length: number; ops: Op[] }): { bitmap: Bitmap; model: Model } {
  const bitmap = new Bitmap(length);
  const model = new Model(length);
  for (const { kind, from, to } of ops) {
    if (kind === 'set') expect(bitmap.setRange(from, to)).toBe(model.change(from, to, true));
    else if (kind === 'clear') expect(bitmap.clearRange(from, to)).toBe(model.change(from, to, false));
    else {
      expect(bitmap.nextSet(from, to)).toBe(model.next(from, to, true));
      expect(bitmap.nextClear(from, to)).toBe(model.next(from, to, false));
      expect(bitmap.countRange(from, to)).toBe(model.bits.slice(from, to).filter(Boolean).length);
      expect(bitmap.anySet(from, to)).toBe(model.next(from, to, true) !== -1);
    }
  }
  return { bitmap, model };
}

describe('Bitmap', () => {
  it('behaves as an array of booleans', () => {
    fc.assert(
      fc.property(scenario, (s) => {
        const { bitmap, model } = play(s);
        expect(bitmap.count).toBe(model.bits.filter(Boolean).length);
        expect(model.bits.map((_, i) => bitmap.test(i))).toEqual(model.bits);
        const fromRuns = new Model(s.length);
        for (const run of bitmap.runs()) fromRuns.change(run.first, run.first + run.count, true);
        expect(fromRuns.bits).toEqual(model.bits);
        for (const [i, run] of [...bitmap.runs()].entries()) {
          const next = [...bitmap.runs()][i + 1];
          if (next) expect(next.first).toBeGreaterThan(run.first + run.count);
        }
      }),
      { numRuns: 300 },
    );
  });

  it('comes back from its serialised form', () => {
    fc.assert(
      fc.property(scenario, (s) => {
        const { bitmap } = play(s);
        const parsed = Bitmap.parse(bitmap.serialise());
        expect(parsed.equals(bitmap)).toBe(true);
        expect(parsed.count).toBe(bitmap.count);
        expect(bitmap.clone().equals(bitmap)).toBe(true);
      }),
    );
  });

  it('is compact: a full bitmap of 16 GiB of sectors takes a few bytes, a chequered one its words', () => {
    expect(new Bitmap(4 * 1024 * 1024, true).serialise().length).toBeLessThan(16);
    const chequered = new Bitmap(6400);
    for (let i = 0; i < 6400; i += 2) chequered.set(i);
    expect(chequered.serialise().length).toBe(5 + 800);
    expect(Bitmap.parse(chequered.serialise()).equals(chequered)).toBe(true);
  });

  it('refuses garbage with a code and never anything else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
        try {
          const bitmap = Bitmap.parse(Buffer.from(bytes), 4096);
          expect(bitmap.length).toBeLessThanOrEqual(4096);
        } catch (error) {
          expect(errorCode(error)).toBe('BITMAP_INVALID');
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('refuses more bits than the caller allows, a truncated form and bits beyond the end', () => {
    const bytes = new Bitmap(100, true).serialise();
    for (const bad of [
      () => Bitmap.parse(bytes, 99),
      () => Bitmap.parse(bytes.subarray(0, 3)),
      () => Bitmap.parse(Buffer.from([1, 0, 0, 0, 1, 3, 0, 0, 0])),
      () => Bitmap.parse(Buffer.from([2, 0, 0, 0, 1, 0, 2])),
      () => Bitmap.parse(Buffer.from([2, 0, 0, 0, 1, 0x80])),
      () => Bitmap.parse(Buffer.from([2, 0, 0, 0, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 0])),
    ]) {
      expect(bad).toThrow(expect.objectContaining({ code: 'BITMAP_INVALID' }));
    }
  });

  it('treats an index outside as a defect of the caller', () => {
    const bitmap = new Bitmap(10);
    expect(() => bitmap.test(10)).toThrow(RangeError);
    expect(() => bitmap.setRange(5, 11)).toThrow(RangeError);
    expect(() => bitmap.clearRange(6, 5)).toThrow(RangeError);
    expect(() => new Bitmap(2 ** 31)).toThrow(RangeError);
  });
});
