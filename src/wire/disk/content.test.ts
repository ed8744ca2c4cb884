import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CloudapError, errorCode } from '../../base/errors.ts';
import { CODEC_RAW, CODEC_RLE, CODEC_ZSTD } from '../codec.ts';
import * as disk from './index.ts';

const SECTOR = disk.SECTOR_BYTES;

/** Page `i` of the content that both sides hold. */
function page(i: number): Buffer {
  const out = Buffer.alloc(SECTOR);
  for (let at = 0; at < SECTOR; at += 4) out.writeUInt32LE(((i + 1) * 2_654_435_761 + at * 97) >>> 0, at);
  return out;
}

const PAGES = 24;
const known = Array.from({ length: PAGES }, (_, i) => page(i));
/** Numbers as high as they get with many files. */
const FIRST = 30_000_000;
const lookup = {
  find: (buf: Buffer, start: number): number => {
    const i = known.findIndex((one) => one.compare(buf, start, start + SECTOR) === 0);
    return i < 0 ? -1 : FIRST + i;
  },
};

function pagesOf(ordinals: Float64Array): Buffer {
  return Buffer.concat([...ordinals].map((ordinal) => known[ordinal - FIRST] ?? Buffer.alloc(SECTOR)));
}

/** Zero, known, or with content of its own that may come again. */
const sector = fc.oneof(
  fc.constant(Buffer.alloc(SECTOR)),
  fc.nat(PAGES - 1).map((i) => page(i)),
  fc.nat(3).map((i) => Buffer.alloc(SECTOR, i + 1)),
  fc.nat(1000).map((i) => page(1000 + i)),
);
const codec = fc.constantFrom(CODEC_RAW, CODEC_RLE, CODEC_ZSTD);
const content = fc.record({
  sectors: fc.array(sector, { minLength: 1, maxLength: 80 }),
  cutBytes: fc.oneof(fc.constant(0), fc.nat(SECTOR - 1)),
});

/** The frames of a whole file, as a source makes them. */
function framesOf(file: Buffer, with_: 1 | 2 | 3): { message: Buffer; count: number; referenced: number }[] {
  const frames: { message: Buffer; count: number; referenced: number }[] = [];
  const total = disk.sectorsOf(file.length);
  for (let first = 0; first < total; ) {
    const run = { first, count: Math.min(total - first, disk.MAX_CONTENT_SECTORS) };
    const data = file.subarray(first * SECTOR, first * SECTOR + disk.runBytes(run, file.length));
    const packed = disk.encodeContent(0, 0, run, data, with_, lookup);
    frames.push(packed);
    first += packed.count;
  }
  return frames;
}

function unpack(message: Buffer, fileBytes: number): Buffer {
  const frame = disk.decodeData(message, fileBytes);
  const references = disk.referencesOf(frame, fileBytes);
  const data = disk.unpackData(frame, fileBytes, references && pagesOf(references.ordinals));
  return data ?? Buffer.alloc(disk.runBytes(frame.run, fileBytes));
}

describe('a frame that names sectors', () => {
  it('comes back as it was, holds no more bytes than allowed, and names what can be named', () => {
    fc.assert(
      fc.property(content, codec, ({ sectors, cutBytes }, with_) => {
        const whole = Buffer.concat(sectors);
        const file = whole.subarray(0, whole.length - cutBytes);
        const frames = framesOf(file, with_);
        expect(Buffer.concat(frames.map(({ message }) => unpack(message, file.length))).equals(file)).toBe(
          true,
        );
        let first = 0;
        for (const { message, count, referenced } of frames) {
          const frame = disk.decodeData(message, file.length);
          expect(frame.run).toEqual({ first, count });
          first += count;
          expect(message.length).toBeLessThanOrEqual(24 + disk.MAX_EXTENT_BYTES + 17 * count);
          const references = disk.referencesOf(frame, file.length);
          expect(references?.sectors.length ?? 0).toBe(referenced);
          // what is known and not said before within the frame is not sent
          for (let at = frame.run.first; at < frame.run.first + count; at++) {
            const part = file.subarray(at * SECTOR, (at + 1) * SECTOR);
            if (part.length < SECTOR || lookup.find(part, 0) < 0) continue;
            const before = [...Array(at - frame.run.first).keys()].some((i) =>
              part.equals(file.subarray((frame.run.first + i) * SECTOR, (frame.run.first + i + 1) * SECTOR)),
            );
            expect(before || references?.sectors.includes(at - frame.run.first)).toBe(true);
          }
        }
      }),
      { numRuns: 200 },
    );
  });

  it('spans many sectors in a few bytes when all is known', () => {
    const sectors = Array.from({ length: 64 }, (_, i) => known[i % PAGES] ?? Buffer.alloc(0));
    const [frame, ...others] = framesOf(Buffer.concat(sectors), CODEC_ZSTD);
    expect(others).toEqual([]);
    expect(frame).toMatchObject({ count: 64, referenced: PAGES });
    expect(frame?.message.length).toBeLessThan(50);
    const zeros = framesOf(Buffer.alloc(64 * SECTOR), CODEC_ZSTD);
    expect(zeros.map(({ message }) => message.length)).toEqual([20]);
  });

  it('ends where its bytes reach the limit of one message', () => {
    const sectors = Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? page(5000 + i) : page(i % PAGES)));
    const frames = framesOf(Buffer.concat(sectors), CODEC_RAW);
    expect(frames.map(({ count }) => count)).toEqual([32, 8]);
  });

  it('notices every flipped bit that changes the place or the data', () => {
    const file = Buffer.concat([page(1), page(2), Buffer.alloc(SECTOR), page(900), page(900), page(5)]);
    fc.assert(
      fc.property(codec, fc.nat(10_000_000), (with_, position) => {
        const message = Buffer.from(framesOf(file, with_)[0]?.message ?? []);
        const bit = position % ((message.length - 2) * 8);
        message.writeUInt8(message.readUInt8(2 + (bit >>> 3)) ^ (1 << (bit & 7)), 2 + (bit >>> 3));
        let code = 'none';
        try {
          expect(unpack(message, file.length)).toEqual(file);
        } catch (error) {
          if (!(error instanceof CloudapError)) throw error;
          ({ code } = error);
        }
        expect(['none', 'DISK_FRAME_CORRUPT', 'DISK_FRAME_INVALID', 'DISK_OUT_OF_RANGE']).toContain(code);
      }),
      { numRuns: 500 },
    );
  });

  it('refuses garbage with a code: whatever the tokens, cut off anywhere', () => {
    const byte = fc.oneof(fc.nat(5), fc.nat(70), fc.nat(255));
    const garbage = fc.record({
      count: fc.integer({ min: 1, max: disk.MAX_CONTENT_SECTORS }),
      tokens: fc.array(byte, { maxLength: 40 }),
      said: fc.nat(3),
      block: fc.uint8Array({ maxLength: 40 }),
      codec: fc.nat(4),
    });
    const fileBytes = disk.MAX_CONTENT_SECTORS * SECTOR - 77;
    let sound = 0;
    fc.assert(
      fc.property(garbage, ({ count, tokens, said, block, codec: of }) => {
        const head = Buffer.alloc(24);
        head.writeUInt8(disk.DISK_VERSION, 0);
        head.writeUInt8(disk.CODEC_CONTENT, 2);
        head.writeUInt32BE(count, 12);
        head.writeUInt8(of, 20);
        head.writeUInt16BE(tokens.length + said, 22);
        const message = Buffer.concat([head, Buffer.from(tokens), block]);
        for (let end = 20; end <= message.length; end++) {
          try {
            unpack(message.subarray(0, end), fileBytes);
            sound++;
          } catch (error) {
            expect(errorCode(error)).toBe('DISK_FRAME_CORRUPT');
          }
        }
      }),
      { numRuns: 1000 },
    );
    // nobody guesses the checksum
    expect(sound).toBe(0);
  });

  it('holds its limits', () => {
    const bad = (tokens: number[], count = 4, block = Buffer.alloc(0), of = 0): string => {
      const head = Buffer.alloc(24);
      head.writeUInt8(disk.DISK_VERSION, 0);
      head.writeUInt8(disk.CODEC_CONTENT, 2);
      head.writeUInt32BE(count, 12);
      head.writeUInt8(of, 20);
      head.writeUInt16BE(tokens.length, 22);
      try {
        const frame = disk.decodeData(Buffer.concat([head, Buffer.from(tokens), block]), 300 * SECTOR);
        disk.referencesOf(frame, 300 * SECTOR);
        return 'none';
      } catch (error) {
        return `${errorCode(error)} ${(error as Error).message}`;
      }
    };
    expect(bad([3, 4, 9])).toBe('none');
    expect(bad([3, 65, 9], 65)).toMatch(/^DISK_OUT_OF_RANGE/);
    expect(bad([3, 5, 9])).toMatch(/more sectors/);
    expect(bad([3, 3, 9])).toMatch(/fewer sectors/);
    expect(bad([2, 0, 2, 4])).toMatch(/more sectors/);
    expect(bad([4, 4, 1])).toMatch(/repeats/);
    expect(bad([2, 1, 4, 3, 2])).toMatch(/repeats/);
    expect(bad([2, 1, 4, 3, 0])).toMatch(/repeats/);
    expect(bad([3, 4, 255, 255, 255, 255, 255, 255, 255, 127])).toMatch(/number of a page/);
    expect(bad([3, 4, 255, 255, 255, 255, 255, 255, 255, 255, 1])).toMatch(/too long/);
    expect(bad([2, 4], 4, Buffer.alloc(1))).toMatch(/left over/);
    expect(bad([1, 17, 2, 1], 18, Buffer.alloc(17 * SECTOR), CODEC_RAW)).toMatch(/DISK_FRAME/);
    expect(bad([1, 17, 2, 1], 18, Buffer.alloc(60), CODEC_ZSTD)).toMatch(/more data than allowed/);
    expect(bad([2, 4], 4, Buffer.alloc(200_000))).toMatch(/DISK_FRAME_INVALID/);
  });
});
