import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { noisePage } from '../../../test/kit/qemuStream.ts';
import { RunningCrc } from './crc.ts';

test('pieces, and pages of which only the checksum is known, give the checksum of the whole', () => {
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes)),
    fc.nat(1000).map((seed) => noisePage(seed)),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), fc.infiniteStream(fc.boolean()), (pieces, whole) => {
      const crc = new RunningCrc();
      for (const data of pieces) {
        if (data.length === 4096 && whole.next().value) crc.addPage(crc32(data));
        else crc.add(data, 0, data.length);
      }
      expect(crc.take()).toBe(crc32(Buffer.concat(pieces)));
      expect(crc.take()).toBe(0);
    }),
  );
});
