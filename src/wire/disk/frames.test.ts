import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CloudapError, errorCode } from '../../base/errors.ts';
import { CODEC_RAW, CODEC_RLE, CODEC_ZSTD } from '../codec.ts';
import * as disk from './index.ts';

const FILE_BYTES = 1000 * disk.SECTOR_BYTES + 77;
const SECTORS = disk.sectorsOf(FILE_BYTES);

const run = fc
  .record({ first: fc.nat(SECTORS - 1), count: fc.integer({ min: 1, max: 16 }) })
  .map(({ first, count }) => ({ first, count: Math.min(count, SECTORS - first) }));
const codec = fc.constantFrom(CODEC_RAW, CODEC_RLE, CODEC_ZSTD);

function expectCode(action: () => unknown, code: string): void {
  expect(action).toThrow(expect.objectContaining({ code }));
}

describe('disk frames', () => {
  it('come back as they were', () => {
    fc.assert(
      fc.property(
        run,
        codec,
        fc.nat(2 ** 32 - 1),
        fc.nat(255),
        fc.integer(),
        (run, codec, pull, number, seed) => {
          const data = Buffer.alloc(disk.runBytes(run, FILE_BYTES));
          for (let i = 0; i < data.length; i += 1 + (seed & 63)) data[i] = (seed >>> (i & 7)) & 255;
          const message = disk.encodeData(number, pull, run, data, codec);
          expect(disk.diskOf(message)).toBe(number);
          expect(message.length).toBeLessThanOrEqual(20 + data.length);
          const frame = disk.decodeData(message, FILE_BYTES);
          expect(frame).toMatchObject({ pull, run });
          expect((disk.unpackData(frame, FILE_BYTES) ?? Buffer.alloc(data.length)).equals(data)).toBe(true);

          const again = seed % 2 === 0;
          if (pull > 0) {
            expect(disk.decodePull(disk.encodePull(number, { pull, run, again }), SECTORS)).toEqual({
              pull,
              run,
              again,
            });
          }
          expect(disk.decodeAnswered(disk.encodeAnswered(number, pull))).toBe(pull);
          disk.decodeMark(disk.encodeMark(number));
          const freeze = { fileSizeBytes: FILE_BYTES, metadataSectors: run.count, qcow2: again };
          expect(disk.decodeFreeze(disk.encodeFreeze(number, freeze))).toEqual(freeze);
          const runs = [run, { first: run.first + run.count + 1, count: 1 }].filter(
            (r) => r.first + r.count <= SECTORS,
          );
          expect(disk.decodeSyn(disk.encodeSyn(number, runs), SECTORS)).toEqual(runs);
        },
      ),
    );
  });

  it('carries no bytes for zeros', () => {
    const message = disk.encodeData(0, 0, { first: 0, count: 16 }, Buffer.alloc(65_536), CODEC_RAW);
    expect(message.length).toBe(20);
    expect(disk.unpackData(disk.decodeData(message, FILE_BYTES), FILE_BYTES)).toBeUndefined();
    expect(disk.isZero(Buffer.alloc(600_000))).toBe(true);
    const last = Buffer.alloc(600_000);
    last[599_999] = 1;
    expect(disk.isZero(last)).toBe(false);
  });

  it('notices every flipped bit that changes the place or the data', () => {
    const data = Buffer.from(Array.from({ length: disk.SECTOR_BYTES }, (_, i) => (i * 7) & 255));
    fc.assert(
      fc.property(codec, fc.nat(10_000_000), (codec, position) => {
        const message = disk.encodeData(0, 5, { first: 9, count: 1 }, data, codec);
        const bit = position % ((message.length - 2) * 8);
        const at = 2 + (bit >>> 3);
        message.writeUInt8(message.readUInt8(at) ^ (1 << (bit & 7)), at);
        let code = 'none';
        try {
          // some bits of a zstd frame's header mean nothing for its content
          expect(disk.unpackData(disk.decodeData(message, FILE_BYTES), FILE_BYTES)).toEqual(data);
        } catch (error) {
          if (!(error instanceof CloudapError)) throw error;
          ({ code } = error);
        }
        expect(['none', 'DISK_FRAME_CORRUPT', 'DISK_FRAME_INVALID', 'DISK_OUT_OF_RANGE']).toContain(code);
      }),
      { numRuns: 500 },
    );
  });

  it('refuses garbage with a code and never anything else', () => {
    const header = fc.tuple(fc.constantFrom(disk.DISK_VERSION, 0, 1), fc.uint8Array({ maxLength: 60 }));
    fc.assert(
      fc.property(header, ([version, rest]) => {
        const message = Buffer.from([version, ...rest]);
        const decoders = [
          () => disk.unpackData(disk.decodeData(message, FILE_BYTES), FILE_BYTES),
          () => disk.decodeFreeze(message),
          () => disk.decodePull(message, SECTORS),
          () => disk.decodeSyn(message, SECTORS),
          () => disk.decodeAnswered(message),
          () => disk.decodeMark(message),
        ];
        for (const decode of decoders) {
          try {
            decode();
          } catch (error) {
            expect(errorCode(error)).toMatch(/^DISK_(FRAME_INVALID|FRAME_CORRUPT|VERSION|OUT_OF_RANGE)$/);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('holds its limits', () => {
    const pull = (first: number, count: number): Buffer =>
      disk.encodePull(0, { pull: 1, run: { first, count }, again: false });
    disk.decodePull(pull(SECTORS - disk.MAX_PULL_SECTORS, disk.MAX_PULL_SECTORS), SECTORS);
    expectCode(() => disk.decodePull(pull(SECTORS - 1, 2), SECTORS), 'DISK_OUT_OF_RANGE');
    expectCode(() => disk.decodePull(pull(0, disk.MAX_PULL_SECTORS + 1), SECTORS), 'DISK_OUT_OF_RANGE');
    expectCode(() => disk.decodePull(pull(5, 0), SECTORS), 'DISK_OUT_OF_RANGE');
    expectCode(
      () =>
        disk.decodePull(disk.encodePull(0, { pull: 0, run: { first: 0, count: 1 }, again: false }), SECTORS),
      'DISK_FRAME_INVALID',
    );
    const long = disk.encodeData(0, 0, { first: 0, count: 17 }, Buffer.alloc(17 * 4096, 1), CODEC_RAW);
    expectCode(() => disk.decodeData(long, FILE_BYTES), 'DISK_OUT_OF_RANGE');
    disk.decodeData(long, FILE_BYTES, disk.MAX_METADATA_EXTENT_BYTES);
    const freeze = (fileSizeBytes: number, metadataSectors: number): Buffer =>
      disk.encodeFreeze(0, { fileSizeBytes, metadataSectors, qcow2: true });
    disk.decodeFreeze(freeze(disk.MAX_FILE_BYTES, 16_384));
    expectCode(() => disk.decodeFreeze(freeze(disk.MAX_FILE_BYTES + 1, 0)), 'DISK_OUT_OF_RANGE');
    expectCode(() => disk.decodeFreeze(freeze(disk.MAX_FILE_BYTES, 16_385)), 'DISK_OUT_OF_RANGE');
    expectCode(() => disk.decodeFreeze(freeze(8192, 3)), 'DISK_OUT_OF_RANGE');
    const overlapping = [
      { first: 3, count: 4 },
      { first: 6, count: 1 },
    ];
    expectCode(() => disk.decodeSyn(disk.encodeSyn(0, overlapping), SECTORS), 'DISK_FRAME_INVALID');
    expectCode(() => disk.decodeSyn(disk.encodeSyn(0, []), SECTORS), 'DISK_FRAME_INVALID');
    expectCode(() => disk.diskOf(Buffer.from([9, 0, 0, 0])), 'DISK_VERSION');
  });
});
