import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { codeOf, migrationStream, noisePage, recode } from '../../../test/kit/qemuStream.ts';
import { DEVICE_FRAME_RAW_LIMIT_BYTES, MEMORY_FRAME_RAW_LIMIT_BYTES, StreamDecoder } from './index.ts';
import { StreamWriter } from './writer.ts';

const CODED = /^(STREAM|CODEC)_|^none$/;

function memoryFrame(codec: 'raw' | 'rle' | 'zstd'): Buffer {
  const writer = new StreamWriter().zeroPage(5, 'pc.ram').dataPage(6, Buffer.alloc(4096, 'text '));
  writer.dataPage(7, Buffer.alloc(4096)).dataPage(9, noisePage(4)).eos();
  const [frame] = recode([writer.take()], { mode: 'ram', codec }).frames;
  return frame?.payload ?? Buffer.alloc(0);
}

/** A memory frame with these tokens and raw bodies, right in all but what the tokens say. */
function handMade(
  tokens: readonly number[],
  raw: Buffer,
  bodies: Buffer = Buffer.alloc(0),
  codec = 1,
  references = 0,
): Buffer {
  const head = Buffer.alloc(24);
  head.set([2, 1, codec, 0]);
  head.writeUInt32LE(raw.length, 4);
  head.writeUInt32LE(crc32(raw), 8);
  head.writeUInt32LE(tokens.length, 12);
  head.writeUInt32LE(bodies.length, 16);
  head.writeUInt32LE(references, 20);
  return Buffer.concat([head, Buffer.from(tokens), bodies]);
}

const decode = (frame: Buffer): Buffer => new StreamDecoder().push(frame);

describe('hostile frames', () => {
  test('garbage gives coded errors only', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 400 }),
        fc.boolean(),
        fc.integer({ min: 0, max: 4 }),
        (noise, head, codec) => {
          const frame = Buffer.from(noise);
          if (head && frame.length >= 8) frame.set([2, 1 + (codec & 1), codec, 0, frame[4] ?? 0, 1, 0, 0]);
          expect(codeOf(() => decode(frame))).toMatch(CODED);
        },
      ),
      { numRuns: 2000 },
    );
  });

  test.each(['raw', 'rle', 'zstd'] as const)('any changed byte of a %s frame is noticed', (codec) => {
    const good = memoryFrame(codec);
    const raw = decode(good);
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bad = Buffer.from(good);
        bad[at] = (bad[at] ?? 0) ^ flip;
        let out: Buffer | undefined;
        const code = codeOf(() => {
          out = decode(bad);
        });
        expect(code).toMatch(CODED);
        // A change that still gives the same bytes does no harm (another repeat code, say).
        if (code === 'none') expect(out?.equals(raw)).toBe(true);
      }),
      { numRuns: 1500 },
    );
    for (let length = 0; length < good.length; length += length < 100 ? 1 : 97) {
      expect(codeOf(() => decode(good.subarray(0, length)))).toMatch(/^(STREAM|CODEC)_/);
    }
    expect(codeOf(() => decode(Buffer.concat([good, Buffer.alloc(1)])))).toMatch(/^(STREAM|CODEC)_/);
  });

  test('changed frames of whole streams', () => {
    fc.assert(
      fc.property(
        migrationStream,
        fc.array(fc.tuple(fc.nat(60), fc.nat(255)), { minLength: 1, maxLength: 3 }),
        (stream, flips) => {
          for (const { payload } of recode([stream], { codec: 'rle' }).frames) {
            const bad = Buffer.from(payload);
            for (const [at, value] of flips) if (at < bad.length) bad[at] = value;
            expect(codeOf(() => decode(bad))).toMatch(CODED);
          }
        },
      ),
      { numRuns: 40 },
    );
  });

  test('each check has its code', () => {
    const good = memoryFrame('raw');
    const changed = (at: number, ...bytes: number[]): Buffer => {
      const frame = Buffer.from(good);
      frame.set(bytes, at);
      return frame;
    };
    const sized = (kind: number, bytes: number): Buffer => {
      const frame = changed(1, kind);
      frame.writeUInt32LE(bytes, 4);
      return frame;
    };
    expect(codeOf(() => decode(changed(0, 1)))).toBe('STREAM_FRAME_VERSION');
    expect(codeOf(() => decode(changed(0, 0)))).toBe('STREAM_FRAME_VERSION');
    expect(codeOf(() => decode(changed(1, 0)))).toBe('STREAM_FRAME_CORRUPT');
    expect(codeOf(() => decode(changed(1, 3)))).toBe('STREAM_FRAME_CORRUPT');
    expect(codeOf(() => decode(changed(3, 1)))).toBe('STREAM_FRAME_CORRUPT');
    expect(codeOf(() => decode(changed(2, 0)))).toBe('CODEC_UNKNOWN');
    expect(codeOf(() => decode(changed(8, (good[8] ?? 0) ^ 1)))).toBe('STREAM_CHECKSUM');
    expect(codeOf(() => decode(sized(1, MEMORY_FRAME_RAW_LIMIT_BYTES + 1)))).toBe('STREAM_FRAME_TOO_LARGE');
    expect(codeOf(() => decode(sized(2, DEVICE_FRAME_RAW_LIMIT_BYTES + 1)))).toBe('STREAM_FRAME_TOO_LARGE');
  });

  const eos = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0x10]);
  const cases: [string, readonly number[], Buffer?, Buffer?, number?][] = [
    ['token 0', [0, 1]],
    ['unknown token', [10, 1]],
    ['token without its number', [7]],
    ['endless number', [4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]],
    ['literal beyond the tokens', [7, 8, 1, 2]],
    ['literal beyond the output', [7, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9]],
    ['too little', [7, 7, 1, 2, 3, 4, 5, 6, 7]],
    ['no record', [2, 0]],
    ['more records than announced', [2, 2], Buffer.alloc(9)],
    ['2^49 records', [2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], Buffer.alloc(9)],
    ['page beyond 2^52', [4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 8, 2, 1], Buffer.alloc(9)],
    [
      'skips without end',
      [...Array.from({ length: 20 }, () => [5, 255, 255, 255, 255, 255, 255, 255, 127]).flat(), 2, 1],
      Buffer.alloc(9),
    ],
    ['name for no record', [7, 8, ...eos, 6, 1, 65]],
    ['two names', [6, 1, 65, 6, 1, 65, 2, 1], Buffer.alloc(11)],
    ['name beyond the tokens', [6, 9, 65]],
    ['name of 256', [6, 0x80, 2, ...Buffer.alloc(256), 2, 1], Buffer.alloc(9 + 257)],
    ['a body that is not there', [1, 1], Buffer.alloc(4104)],
    ['a body too many', [3, 1], Buffer.alloc(4104), Buffer.alloc(4096)],
    ['an RLE body without its length', [1, 1], Buffer.alloc(4104), Buffer.alloc(1), 2],
    ['an RLE body beyond the end', [1, 1], Buffer.alloc(4104), Buffer.from([4, 0]), 2],
    ['an RLE body of no length', [1, 1], Buffer.alloc(4104), Buffer.from([0, 0]), 2],
    ['a bad RLE body', [1, 1], Buffer.alloc(4104), Buffer.from([4, 0, 1, 2, 3, 4]), 2],
  ];
  test.each(cases)('%s', (_, tokens, raw = eos, bodies, codec) => {
    expect(codeOf(() => decode(handMade(tokens, raw, bodies, codec)))).toBe('STREAM_FRAME_CORRUPT');
  });

  test('the hand-made frames are right but for that', () => {
    expect(decode(handMade([7, 8, ...eos], eos)).equals(eos)).toBe(true);
  });
});

test('a failed frame leaves the decoder as it was', () => {
  const decoder = new StreamDecoder();
  const good = memoryFrame('rle');
  expect(codeOf(() => decoder.push(good.subarray(1)))).not.toBe('none');
  expect(decoder.stats().memory.frames).toBe(0);
  const out = decoder.push(good);
  expect(decoder.stats().memory).toEqual({ bytesRaw: out.length, bytesEncoded: good.length, frames: 1 });
});
