import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { PlainAssembly, ReadAssembly, type ReplyAssembly, StatusAssembly } from './assembly.ts';
import { CHUNK, CHUNK_FLAG, CHUNK_HEADER_BYTES, NBD_ERRNO } from './constants.ts';
import { Coverage } from './coverage.ts';
import {
  encodeChunkHeader,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeHoleChunk,
  encodeStatusChunk,
} from './encode.ts';
import type { Chunk } from './frames.ts';

const DONE = CHUNK_FLAG.DONE;
const broken = expect.objectContaining({ code: 'NBD_BAD_FRAME' }) as Error;

/** An encoded chunk as the parser would hand it on. */
function chunk(bytes: Buffer): Chunk {
  const payload = bytes.subarray(CHUNK_HEADER_BYTES);
  const [flags, type] = [bytes.readUInt16BE(4), bytes.readUInt16BE(6)];
  return { kind: 'chunk', flags, type, cookie: 1n, lengthBytes: payload.length, payload };
}

function data(flags: number, offset: number, content: Buffer): Chunk {
  return chunk(Buffer.concat([encodeDataChunkHeader(flags, 1n, offset, content.length), content]));
}

const hole = (flags: number, offset: number, length: number) =>
  chunk(encodeHoleChunk(flags, 1n, offset, length));
const none = () => chunk(encodeChunkHeader(DONE, CHUNK.NONE, 1n, 0));
const status = (flags: number, id: number, lengths: number[]) =>
  chunk(
    encodeStatusChunk(
      flags,
      1n,
      id,
      lengths.map((lengthBytes) => ({ lengthBytes, flags: 0 })),
    ),
  );

/** Feeds chunks in turn; the last one must end the reply. */
function feed<T>(assembly: ReplyAssembly<T>, chunks: readonly Chunk[]): ReplyAssembly<T> {
  for (const [i, c] of chunks.entries()) {
    assembly.admit(c);
    expect(assembly.accept(c)).toBe(i === chunks.length - 1);
  }
  return assembly;
}

describe('READ', () => {
  test('is put together from pieces and holes in any order', () => {
    const piece = fc.record({ length: fc.integer({ min: 1, max: 40 }), isHole: fc.boolean(), key: fc.nat() });
    fc.assert(
      fc.property(fc.array(piece, { minLength: 1, maxLength: 30 }), fc.nat(1e12), (pieces, base) => {
        let at = base;
        const parts = pieces.map(({ length, isHole, key }) => {
          const content = Buffer.alloc(length, isHole ? 0 : key % 256);
          const made = isHole ? hole(0, at, length) : data(0, at, content);
          at += length;
          return { made, content, key };
        });
        const whole = Buffer.concat(parts.map((p) => p.content));
        const shuffled = parts.toSorted((a, b) => a.key - b.key).map((p) => p.made);
        const assembly = feed(new ReadAssembly(base, whole.length, true), [...shuffled, none()]);
        expect(assembly.result().equals(whole)).toBe(true);
      }),
    );
  });

  test('in one chunk is not copied', () => {
    const only = data(DONE, 8, Buffer.alloc(16, 7));
    const result = feed(new ReadAssembly(8, 16, true), [only]).result();
    expect(result.buffer).toBe(only.payload.buffer);
  });

  test.each([
    ['overlap', [data(0, 0, Buffer.alloc(10)), data(DONE, 9, Buffer.alloc(7))]],
    ['the same hole twice', [hole(0, 0, 8), hole(DONE, 0, 8)]],
    ['a gap', [data(0, 0, Buffer.alloc(8)), data(DONE, 9, Buffer.alloc(7))]],
    ['nothing at all', [none()]],
    ['data before the request', [data(DONE, -1 + 2 ** 32, Buffer.alloc(16))]],
    ['data behind the request', [data(DONE, 8, Buffer.alloc(16))]],
    ['a longer hole than asked', [hole(DONE, 0, 17)]],
    ['more data than asked', [data(DONE, 0, Buffer.alloc(17))]],
    ['a hole of no bytes', [hole(DONE, 0, 0)]],
    ['a block status', [status(DONE, 1, [16])]],
    ['an unknown content type', [chunk(encodeChunkHeader(DONE, 9, 1n, 0))]],
    ['NONE that is not the last', [chunk(encodeChunkHeader(0, CHUNK.NONE, 1n, 0))]],
    [
      'NONE with a payload',
      [chunk(Buffer.concat([encodeChunkHeader(DONE, CHUNK.NONE, 1n, 1), Buffer.alloc(1)]))],
    ],
    ['an error elsewhere', [chunk(encodeErrorChunk(DONE, 1n, 5, '', 17))]],
    ['an error without an error', [chunk(encodeErrorChunk(DONE, 1n, 0, ''))]],
  ])('%s breaks the protocol', (_name, chunks) => {
    expect(() => feed(new ReadAssembly(0, 16, true), chunks)).toThrow(broken);
  });

  test('a simple reply is wrong once structured replies are agreed, but an error is understood', () => {
    expect(() => new ReadAssembly(0, 16, true).simplePayloadBytes(0)).toThrow(broken);
    const assembly = new ReadAssembly(0, 16, true);
    expect(assembly.simplePayloadBytes(5)).toBe(0);
    expect(assembly.accept({ kind: 'simple', error: 5, cookie: 1n, payload: undefined })).toBe(true);
    expect(() => assembly.result()).toThrow(expect.objectContaining({ code: 'NBD_REQUEST_FAILED' }));
    expect(new ReadAssembly(0, 16, false).simplePayloadBytes(0)).toBe(16);
  });

  test('an error with its message and place, even when data follows', () => {
    const error = chunk(encodeErrorChunk(0, 1n, NBD_ERRNO.ENOSPC, 'no room', 3));
    const assembly = feed(new ReadAssembly(0, 16, true), [error, data(DONE, 8, Buffer.alloc(8))]);
    const fields = { errno: 28, errnoName: 'ENOSPC', offset: 3 };
    expect(() => assembly.result()).toThrow(expect.objectContaining({ code: 'NBD_REQUEST_FAILED', fields }));
    expect(() => assembly.result()).toThrow(/READ: ENOSPC \(no room\)/);
  });

  test('an unknown error type is an error', () => {
    const bytes = encodeErrorChunk(DONE, 1n, 99, 'new kind');
    bytes.writeUInt16BE(0x8077, 6);
    const assembly = feed(new ReadAssembly(0, 16, true), [chunk(bytes)]);
    expect(() => assembly.result()).toThrow(/errno 99/);
  });

  test('chunks are counted', () => {
    const assembly = new ReadAssembly(0, 32 * 1024 * 1024, true);
    const header = { flags: 0, type: CHUNK.OFFSET_HOLE, cookie: 1n, lengthBytes: 12 };
    expect(() => {
      for (;;) assembly.admit(header);
    }).toThrow(expect.objectContaining({ code: 'NBD_TOO_LARGE' }));
  });
});

describe('BLOCK_STATUS', () => {
  const make = () => new StatusAssembly(100, new Set([1, 2]));

  test('one chunk for each context, in any order; the last extent may reach further', () => {
    const result = feed(make(), [status(0, 2, [60, 1000]), status(DONE, 1, [10])]).result();
    expect(result.get(1)).toEqual([{ lengthBytes: 10, flags: 0 }]);
    expect(result.get(2)?.length).toBe(2);
  });

  test.each([
    ['a context missing', [status(DONE, 1, [100])]],
    ['a context twice', [status(0, 1, [100]), status(DONE, 1, [100])]],
    ['a context never agreed', [status(DONE, 3, [100])]],
    ['an extent behind the end', [status(DONE, 1, [100, 1])]],
    ['an extent of no bytes', [status(DONE, 1, [0])]],
    ['data', [data(DONE, 0, Buffer.alloc(10))]],
  ])('%s breaks the protocol', (_name, chunks) => {
    expect(() => feed(make(), chunks)).toThrow(broken);
  });

  test('a simple success breaks the protocol', () => {
    expect(() => make().simplePayloadBytes(0)).toThrow(broken);
  });
});

describe('WRITE and its like', () => {
  test('either form of reply', () => {
    const simple = new PlainAssembly('WRITE');
    expect(simple.accept({ kind: 'simple', error: 0, cookie: 1n, payload: undefined })).toBe(true);
    expect(simple.result()).toBeUndefined();
    expect(feed(new PlainAssembly('FLUSH'), [none()]).result()).toBeUndefined();
  });

  test('content breaks the protocol', () => {
    expect(() => feed(new PlainAssembly('WRITE'), [hole(DONE, 0, 1)])).toThrow(broken);
  });
});

test('coverage agrees with a set of bytes', () => {
  const range = fc.record({ start: fc.nat(60), length: fc.integer({ min: 1, max: 12 }) });
  fc.assert(
    fc.property(fc.array(range), (ranges) => {
      const coverage = new Coverage();
      const model = new Set<number>();
      for (const { start, length } of ranges) {
        const all = Array.from({ length }, (_, i) => start + i);
        if (all.some((i) => model.has(i))) expect(() => coverage.add(start, start + length)).toThrow(broken);
        else {
          coverage.add(start, start + length);
          for (const i of all) model.add(i);
        }
        expect(coverage.coveredBytes).toBe(model.size);
      }
    }),
  );
});
