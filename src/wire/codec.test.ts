import { randomBytes } from 'node:crypto';
import { zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { errorCode } from '../base/errors.ts';
import {
  BLOCK_MAX_BYTES,
  CODEC_RAW,
  CODEC_RLE,
  CODEC_ZSTD,
  codecFromId,
  decodeBlock,
  encodeBlock,
} from './codec.ts';

const codecs = [CODEC_RAW, CODEC_RLE, CODEC_ZSTD] as const;

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return errorCode(error);
  }
  return 'none';
}

test('a block decodes to itself with every codec, and never grows', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...codecs),
      fc.uint8Array({ maxLength: 600 }),
      fc.nat(3000),
      fc.integer({ min: 1, max: 9 }),
      (codec, noise, zeros, zstdLevel) => {
        const data = Buffer.concat([noise, Buffer.alloc(zeros), noise]);
        const encoded = encodeBlock(codec, data, { zstdLevel });
        expect(encoded.payload.length).toBeLessThanOrEqual(data.length);
        expect(decodeBlock(encoded.codec, encoded.payload, data.length).equals(data)).toBe(true);
      },
    ),
  );
});

test('raw is chosen where the codec does not help', () => {
  const noise = randomBytes(65_536);
  for (const codec of codecs) expect(encodeBlock(codec, noise).codec).toBe(CODEC_RAW);
  expect(encodeBlock(CODEC_RLE, Buffer.alloc(65_537)).codec).toBe(CODEC_RAW);
  expect(encodeBlock(CODEC_ZSTD, Buffer.alloc(0)).codec).toBe(CODEC_RAW);
  expect(encodeBlock(CODEC_RLE, Buffer.alloc(65_536)).codec).toBe(CODEC_RLE);
  expect(encodeBlock(CODEC_ZSTD, Buffer.alloc(65_536)).codec).toBe(CODEC_ZSTD);
});

test('a codec that does not exist is refused', () => {
  for (const id of [0, 4, 255, -1, 1.5]) expect(codeOf(() => codecFromId(id))).toBe('CODEC_UNKNOWN');
  expect(codeOf(() => decodeBlock(0, Buffer.alloc(8), 8))).toBe('CODEC_UNKNOWN');
});

test('a length other than announced is refused', () => {
  const data = Buffer.alloc(4096, 1);
  for (const codec of codecs) {
    const { codec: used, payload } = encodeBlock(codec, data);
    for (const length of [0, 4088, 4095, 4097, 8192]) {
      expect(codeOf(() => decodeBlock(used, payload, length))).toBe('CODEC_CORRUPT');
    }
    expect(codeOf(() => decodeBlock(used, payload, BLOCK_MAX_BYTES + 1))).toBe('CODEC_TOO_LARGE');
    expect(codeOf(() => decodeBlock(used, payload, Number.NaN))).toBe('CODEC_TOO_LARGE');
  }
  expect(codeOf(() => encodeBlock(CODEC_ZSTD, Buffer.alloc(BLOCK_MAX_BYTES + 1)))).toBe('CODEC_TOO_LARGE');
});

test('a bomb is not unpacked further than announced', () => {
  const bomb = zstdCompressSync(Buffer.alloc(64 * 1024 * 1024));
  expect(bomb.length).toBeLessThan(10_000);
  expect(codeOf(() => decodeBlock(CODEC_ZSTD, bomb, 4096))).toBe('CODEC_CORRUPT');
});

test('garbage never throws anything but coded errors', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 4 }),
      fc.uint8Array({ maxLength: 300 }),
      fc.nat(5000),
      (id, src, n) => {
        expect(codeOf(() => decodeBlock(id, Buffer.from(src), n))).toMatch(/^CODEC_|^none$/);
      },
    ),
  );
  const good = encodeBlock(CODEC_ZSTD, Buffer.from('stream '.repeat(500))).payload;
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] ?? 0) ^ flip;
      expect(codeOf(() => decodeBlock(CODEC_ZSTD, bad, 3500))).toMatch(/^CODEC_|^none$/);
    }),
  );
});
