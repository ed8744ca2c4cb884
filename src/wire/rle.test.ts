import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RLE_MAX_BYTES, rleDecode, rleEncode } from './rle.ts';

function encode(src: Buffer): Buffer | undefined {
  const out = Buffer.alloc(src.length + 7, 0xee);
  const written = rleEncode(src, out, 3);
  expect(out.subarray(0, 3).every((byte) => byte === 0xee)).toBe(true);
  return written < 0 ? undefined : Buffer.from(out.subarray(3, 3 + written));
}

function roundTrip(src: Buffer): number {
  const encoded = encode(src);
  if (!encoded) return -1;
  expect(encoded.length).toBeLessThan(src.length);
  const out = Buffer.alloc(src.length + 5, 0x55);
  expect(rleDecode(encoded, out, 2, src.length)).toBe(true);
  expect(out.subarray(2, 2 + src.length).equals(src)).toBe(true);
  expect([out[1], out[2 + src.length]]).toEqual([0x55, 0x55]);
  return encoded.length;
}

/** Pages as they are found: stretches of one byte, of one word, and of noise, at any alignment. */
const pages = fc
  .array(
    fc.oneof(
      fc.record({ byte: fc.constantFrom(0, 0xff, 0x20, 7), length: fc.integer({ min: 1, max: 900 }) }),
      fc.record({ noise: fc.uint8Array({ minLength: 1, maxLength: 300 }) }),
      fc.record({ word: fc.nat(), count: fc.integer({ min: 1, max: 200 }) }),
    ),
    { minLength: 1, maxLength: 30 },
  )
  .map((parts) => {
    const data = Buffer.concat(
      parts.map((part) => {
        if ('byte' in part) return Buffer.alloc(part.length, part.byte);
        if ('noise' in part) return Buffer.from(part.noise);
        const word = Buffer.alloc(4);
        word.writeUInt32LE(part.word);
        return Buffer.concat(Array.from({ length: part.count }, () => word));
      }),
    );
    return Buffer.concat([data, Buffer.alloc(8 - (data.length % 8))]);
  });

test('what is encoded decodes to itself', () => {
  fc.assert(
    fc.property(pages, (src) => {
      roundTrip(src);
    }),
    { numRuns: 500 },
  );
});

test('a sector of zeros or ones takes one word, the paper has 54 bytes', () => {
  expect(roundTrip(Buffer.alloc(4096))).toBe(4);
  expect(roundTrip(Buffer.alloc(4096, 0xff))).toBe(4);
  expect(roundTrip(Buffer.alloc(4096, 0x61))).toBe(8);
  expect(roundTrip(Buffer.alloc(8))).toBe(4);
});

test('what has no runs is refused, never grown', () => {
  const ramp = Buffer.alloc(4096);
  for (let i = 0; i < 1024; i++) ramp.writeUInt32LE(i * 0x00400107, i * 4);
  expect(encode(ramp)).toBeUndefined();
  const pairs = Buffer.alloc(4096);
  for (let i = 0; i < 1024; i++) pairs.writeUInt32LE(1 + (i >> 1), i * 4);
  expect(encode(pairs)).toBeUndefined();
});

test('lengths: from one unit to the limit, with runs and literals beyond one control word', () => {
  for (const length of [8, 16, 4096, 65_536, 131_064, 131_072, 131_080, RLE_MAX_BYTES]) {
    expect(roundTrip(Buffer.alloc(length))).toBeGreaterThan(0);
    const mixed = Buffer.alloc(length);
    for (let i = 0; i < length / 2 - 3; i += 4) mixed.writeUInt32LE(i + 1, i);
    roundTrip(mixed);
    const late = Buffer.alloc(length);
    for (let i = 0; i + 12 < length; i += 4) late.writeUInt32LE(i + 1, i);
    roundTrip(late);
  }
  for (const length of [0, 4, 12, 4095, RLE_MAX_BYTES + 8]) {
    expect(rleEncode(Buffer.alloc(length), Buffer.alloc(length + 64), 0)).toBe(-1);
    expect(rleDecode(Buffer.alloc(4), Buffer.alloc(length), 0, length)).toBe(false);
  }
});

test('no room for the result is a refusal', () => {
  expect(rleEncode(Buffer.alloc(4096), Buffer.alloc(3), 0)).toBe(-1);
  expect(rleDecode(encode(Buffer.alloc(4096)) ?? Buffer.alloc(0), Buffer.alloc(4095), 0, 4096)).toBe(false);
});

test('a hostile encoding is refused and writes nothing', () => {
  const word = (...words: number[]) =>
    Buffer.concat(
      words.map((w) => {
        const b = Buffer.alloc(4);
        b.writeUInt32LE(w >>> 0);
        return b;
      }),
    );
  const hostile = [
    Buffer.alloc(0),
    Buffer.alloc(3, 1),
    word(0), // neither literals nor a run
    word((1 << 30) | 1023), // one word short
    word((1 << 30) | 1025), // one word long
    word((3 << 30) | 1024), // the repeated word is missing
    word(1024 << 15), // literals are missing
    word((1 << 30) | 1024, 0), // something after the end
    word(1024), // a run of no kind
    word((2 << 30) | (1 << 15), 7), // a kind without a run
  ];
  for (const src of hostile) {
    const out = Buffer.alloc(4096, 0x55);
    expect(rleDecode(src, out, 0, 4096)).toBe(false);
    expect(out.every((byte) => byte === 0x55)).toBe(true);
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.integer({ min: 1, max: 64 }), (src, units) => {
      const out = Buffer.alloc(units * 8 + 8, 0x55);
      const valid = rleDecode(Buffer.from(src), out, 4, units * 8);
      if (!valid) expect(out.every((byte) => byte === 0x55)).toBe(true);
      expect(out.readUInt32LE(0)).toBe(0x55555555);
      expect(out.readUInt32LE(units * 8 + 4)).toBe(0x55555555);
    }),
    { numRuns: 1000 },
  );
});
