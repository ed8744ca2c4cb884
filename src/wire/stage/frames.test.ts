import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { errorCode } from '../../base/errors.ts';
import { MAX_STAGE_BYTES } from './constants.ts';
import {
  decodeStageData,
  decodeStageEnd,
  encodeStageData,
  encodeStageEnd,
  encodeStageZeros,
} from './frames.ts';

const FILE_BYTES = 2 ** 41;

describe('messages of a push', () => {
  it('come back as they were', () => {
    fc.assert(
      fc.property(
        fc.nat(255),
        fc.nat(2 ** 31 - 1),
        fc.uint8Array({ minLength: 1, maxLength: 5000 }),
        (file, at, bytes) => {
          const data = Buffer.from(bytes);
          const offsetBytes = at * 1000;
          const length = { file, offsetBytes, lengthBytes: data.length };
          expect(decodeStageData(encodeStageData(file, offsetBytes, data), FILE_BYTES)).toEqual({
            ...length,
            data,
          });
          const zeros = encodeStageZeros(file, offsetBytes, data.length);
          expect(zeros.length).toBe(20);
          expect(decodeStageData(zeros, FILE_BYTES)).toEqual({ ...length, data: undefined });
          expect(decodeStageEnd(encodeStageEnd(file))).toBe(file);
        },
      ),
    );
  });

  it('refuse garbage with a code', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 60 }), fc.boolean(), (bytes, plausible) => {
        const message = Buffer.from(plausible ? [1, 0, bytes[0] ?? 0, 0, 0, 0, 0, 0, ...bytes] : bytes);
        for (const decode of [() => decodeStageData(message, 10_000), () => decodeStageEnd(message)]) {
          try {
            decode();
          } catch (error) {
            expect(errorCode(error)).toMatch(/^(STAGE_FRAME_INVALID|CODEC_CORRUPT)$/);
          }
        }
      }),
      { numRuns: 2000 },
    );
  });

  it('hold their limits before they unpack', () => {
    const refused = (message: Buffer, fileBytes: number): void =>
      expect(() => decodeStageData(message, fileBytes)).toThrow(
        expect.objectContaining({ code: 'STAGE_FRAME_INVALID' }),
      );
    const most = encodeStageData(0, 0, Buffer.alloc(MAX_STAGE_BYTES, 1));
    expect(decodeStageData(most, MAX_STAGE_BYTES).lengthBytes).toBe(MAX_STAGE_BYTES);
    refused(most, MAX_STAGE_BYTES - 1);
    refused(encodeStageData(0, 0, Buffer.alloc(MAX_STAGE_BYTES + 1, 1)), FILE_BYTES);
    refused(encodeStageZeros(0, 5, 0), FILE_BYTES);
    refused(encodeStageZeros(0, FILE_BYTES - 4, 5), FILE_BYTES);
    refused(Buffer.concat([encodeStageZeros(0, 0, 5), Buffer.alloc(1)]), FILE_BYTES);
  });
});
