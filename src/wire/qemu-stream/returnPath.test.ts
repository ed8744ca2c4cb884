import fc from 'fast-check';
import { expect, test } from 'vitest';
import { chunkSizes, chunksOf, codeOf } from '../../../test/kit/qemuStream.ts';
import { ReturnPathParser } from './index.ts';

function message(type: number, data: Buffer): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt16BE(type, 0);
  head.writeUInt16BE(data.length, 2);
  return Buffer.concat([head, data]);
}

function u32(value: number): Buffer {
  const buf = Buffer.alloc(4);
  buf.writeUInt32BE(value);
  return buf;
}

function u64(value: bigint): Buffer {
  const buf = Buffer.alloc(8);
  buf.writeBigUInt64BE(value);
  return buf;
}

function named(text: string): Buffer {
  return Buffer.concat([Buffer.from([text.length]), Buffer.from(text, 'latin1')]);
}

function bitmap(name: string, bits: Buffer): Buffer {
  return Buffer.concat([message(5, named(name)), u64(BigInt(bits.length)), bits, u64(0x0123456789abcdefn)]);
}

const path = Buffer.concat([
  message(2, u32(7)),
  message(3, Buffer.concat([u64(0x1_0000_3000n), u32(4096), named('pc.ram')])),
  message(4, Buffer.concat([u64(0x5000n), u32(8192)])),
  bitmap('pc.ram', Buffer.alloc(40, 0xaa)),
  message(6, u32(1)),
  message(7, Buffer.alloc(0)),
  message(99, Buffer.from('news')),
  message(1, u32(0)),
]);

test('messages are read whole, byte by byte and at random splits, and forwarded as they came', () => {
  fc.assert(
    fc.property(chunkSizes, fc.constantFrom(1, 20), (sizes, repeat) => {
      const stream = Buffer.concat(Array.from({ length: repeat }, () => path));
      const parser = new ReturnPathParser();
      const messages = [];
      for (const chunk of chunksOf(stream, sizes)) {
        const own = Buffer.from(chunk);
        messages.push(...parser.push(own));
        own.fill(0xa5);
      }
      expect(Buffer.concat(messages.map((m) => m.raw)).equals(stream)).toBe(true);
      expect(messages.slice(0, 8).map(({ raw: _, ...rest }) => rest)).toEqual([
        { kind: 'pong', value: 7 },
        { kind: 'request-pages', block: 'pc.ram', startByte: 0x1_0000_3000n, lengthBytes: 4096 },
        { kind: 'request-pages', block: undefined, startByte: 0x5000n, lengthBytes: 8192 },
        { kind: 'received-bitmap', block: 'pc.ram', bitmapBytes: 40 },
        { kind: 'resume-ack', value: 1 },
        { kind: 'switchover-ack' },
        { kind: 'other', type: 99 },
        { kind: 'shut', status: 0 },
      ]);
      expect(parser.pendingBytes).toBe(0);
      expect(parser.stats()).toEqual({
        requests: 2 * repeat,
        pagesRequested: 3 * repeat,
        messages: 8 * repeat,
        bytes: stream.length,
      });
    }),
  );
});

test('what is malformed is refused', () => {
  const bad: [string, Buffer][] = [
    ['type 0', message(0, Buffer.alloc(4))],
    ['length of a pong', message(2, Buffer.alloc(5))],
    ['length of a request', message(4, Buffer.alloc(13))],
    ['request without a name', message(3, Buffer.alloc(12))],
    ['short request', message(3, Buffer.alloc(3))],
    ['name longer than the message', message(3, Buffer.concat([Buffer.alloc(12), Buffer.from([9, 65])]))],
    ['name shorter than the message', message(5, Buffer.from([1, 65, 66]))],
    ['bitmap too long', Buffer.concat([message(5, named('a')), u64(2n ** 40n)])],
    ['bitmap without its end', Buffer.concat([message(5, named('a')), u64(8n), Buffer.alloc(16)])],
  ];
  for (const [, data] of bad)
    expect(codeOf(() => new ReturnPathParser().push(data))).toBe('STREAM_RETURN_PATH');
});

test('garbage gives coded errors only', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (noise) => {
      expect(codeOf(() => new ReturnPathParser().push(Buffer.from(noise)))).toMatch(
        /^STREAM_RETURN_PATH$|^none$/,
      );
    }),
    { numRuns: 1000 },
  );
});
