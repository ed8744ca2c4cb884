import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CloudapError, errorCode } from '../../base/errors.ts';
import { CHUNK, CHUNK_HEADER_BYTES, COMMAND, INFO } from './constants.ts';
import {
  decodeDataChunk,
  decodeErrorChunk,
  decodeHoleChunk,
  decodeInfo,
  decodeInfoRequest,
  decodeMetaContext,
  decodeMetaContextRequest,
  decodeServerEntry,
  decodeStatusChunk,
} from './decode.ts';
import {
  encodeBlockSizeInfo,
  encodeChunkHeader,
  encodeClientFlags,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeExportInfo,
  encodeExportNameReply,
  encodeGreeting,
  encodeHoleChunk,
  encodeInfoRequest,
  encodeMetaContext,
  encodeMetaContextRequest,
  encodeOption,
  encodeOptionReply,
  encodeRequest,
  encodeServerEntry,
  encodeSimpleReply,
  encodeStatusChunk,
  encodeTextInfo,
} from './encode.ts';
import type { ClientToServerFrame, ServerToClientFrame } from './frames.ts';
import { ReplyParser } from './reply-parser.ts';
import { RequestParser } from './request-parser.ts';

const u16 = fc.integer({ min: 0, max: 0xffff });
const u32 = fc.integer({ min: 0, max: 0xffff_ffff });
const cookie = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const size = fc.maxSafeNat();
const text = fc.string({ unit: 'grapheme', maxLength: 60 });
const bytes = (maxLength: number, minLength = 0) =>
  fc.uint8Array({ minLength, maxLength }).map((b) => Buffer.from(b));

const option = fc.record({ option: u32, data: bytes(100) });
const request = fc
  .record({ command: fc.nat(9), flags: u16, cookie, offset: size, lengthBytes: u32, payload: bytes(100) })
  .map((r) =>
    r.command === COMMAND.WRITE
      ? { ...r, lengthBytes: r.payload.length }
      : { ...r, payload: undefined as Buffer | undefined },
  );

/** A whole conversation as its bytes and as the frames that a parser must find in it. */
const fromClient = fc
  .record({ flags: u32, options: fc.array(option, { maxLength: 4 }), requests: fc.array(request) })
  .map(({ flags, options, requests }) => {
    const handshake: ClientToServerFrame[] = [
      { kind: 'clientFlags', flags },
      ...options.map((o) => ({ kind: 'option' as const, ...o })),
    ];
    const wire = Buffer.concat([
      encodeClientFlags(flags),
      ...options.map((o) => encodeOption(o.option, o.data)),
      ...requests.flatMap((r) => [
        encodeRequest(r.command, r.flags, r.cookie, r.offset, r.lengthBytes),
        r.payload ?? Buffer.alloc(0),
      ]),
    ]);
    const frames = [...handshake, ...requests.map((r) => ({ kind: 'request' as const, ...r }))];
    return { wire, frames, handshakeFrames: handshake.length };
  });

const reply = fc.oneof(
  fc
    .record({ cookie, error: u32, payload: bytes(80) })
    .map((r) => ({ kind: 'simple' as const, ...r, payload: r.payload.length === 0 ? undefined : r.payload })),
  fc
    .record({ cookie, flags: u16, type: u16, payload: bytes(80) })
    .map((r) => ({ kind: 'chunk' as const, ...r, lengthBytes: r.payload.length })),
);

const fromServer = fc
  .record({ flags: u16, options: fc.array(fc.record({ option: u32, type: u32, data: bytes(90) })) })
  .chain(({ flags, options }) =>
    fc.array(reply).map((replies) => {
      const handshake: ServerToClientFrame[] = [
        { kind: 'greeting', flags },
        ...options.map((o) => ({ kind: 'optionReply' as const, ...o })),
      ];
      const wire = Buffer.concat([
        encodeGreeting(flags),
        ...options.map((o) => encodeOptionReply(o.option, o.type, o.data)),
        ...replies.flatMap((r) => [
          r.kind === 'simple'
            ? encodeSimpleReply(r.cookie, r.error)
            : encodeChunkHeader(r.flags, r.type, r.cookie, r.payload.length),
          r.payload ?? Buffer.alloc(0),
        ]),
      ]);
      // the session knows how much follows a simple reply; here it knows because it is told in turn
      const simpleLengths = replies.flatMap((r) => (r.kind === 'simple' ? [r.payload?.length ?? 0] : []));
      return { wire, frames: [...handshake, ...replies], handshakeFrames: handshake.length, simpleLengths };
    }),
  );

/** Cuts `wire` at arbitrary places; no cuts at all glues everything, all cuts deliver byte by byte. */
function cut(wire: Buffer, cuts: readonly number[]): Buffer[] {
  const at = [0, ...cuts.map((c) => c % (wire.length + 1)).sort((a, b) => a - b), wire.length];
  return at.slice(1).map((end, i) => wire.subarray(at[i], end));
}

function parseRequests(pieces: readonly Buffer[], handshakeFrames: number): ClientToServerFrame[] {
  const parser = new RequestParser();
  const frames: ClientToServerFrame[] = [];
  for (const piece of pieces) {
    parser.push(piece);
    for (let frame = parser.next(); frame !== undefined; frame = parser.next()) {
      frames.push(frame);
      if (frames.length === handshakeFrames) parser.beginTransmission();
    }
  }
  expect(parser.bufferedBytes).toBe(0);
  return frames;
}

function parseReplies(
  pieces: readonly Buffer[],
  handshakeFrames: number,
  simpleLengths: readonly number[],
): ServerToClientFrame[] {
  let simple = 0;
  const parser = new ReplyParser({
    simplePayloadBytes: () => simpleLengths[simple++] ?? 0,
    admitChunk: () => {},
  });
  const frames: ServerToClientFrame[] = [];
  for (const piece of pieces) {
    parser.push(piece);
    for (let frame = parser.next(); frame !== undefined; frame = parser.next()) {
      frames.push(frame);
      if (frames.length === handshakeFrames) parser.beginTransmission();
    }
  }
  expect(parser.bufferedBytes).toBe(0);
  return frames;
}

const cuts = fc.array(fc.nat(), { maxLength: 12 });

describe('frames survive the wire, however it is cut', () => {
  test('client to server', () => {
    fc.assert(
      fc.property(fromClient, cuts, ({ wire, frames, handshakeFrames }, cuts) => {
        expect(parseRequests(cut(wire, cuts), handshakeFrames)).toEqual(frames);
      }),
    );
  });

  test('client to server, byte by byte', () => {
    fc.assert(
      fc.property(fromClient, ({ wire, frames, handshakeFrames }) => {
        const pieces = cut(wire, [...wire.keys()]);
        expect(parseRequests(pieces, handshakeFrames)).toEqual(frames);
      }),
      { numRuns: 30 },
    );
  });

  test('server to client', () => {
    fc.assert(
      fc.property(fromServer, cuts, ({ wire, frames, handshakeFrames, simpleLengths }, cuts) => {
        expect(parseReplies(cut(wire, cuts), handshakeFrames, simpleLengths)).toEqual(frames);
      }),
    );
  });

  test('server to client, byte by byte', () => {
    fc.assert(
      fc.property(fromServer, ({ wire, frames, handshakeFrames, simpleLengths }) => {
        const pieces = cut(wire, [...wire.keys()]);
        expect(parseReplies(pieces, handshakeFrames, simpleLengths)).toEqual(frames);
      }),
      { numRuns: 30 },
    );
  });

  test('the reply to EXPORT_NAME, with and without its zeroes', () => {
    for (const noZeroes of [true, false]) {
      const wire = [
        encodeGreeting(3),
        encodeExportNameReply(5 * 2 ** 40, 7, noZeroes),
        encodeSimpleReply(9n, 0),
      ];
      const parser = new ReplyParser({ simplePayloadBytes: () => 0, admitChunk: () => {} });
      parser.push(Buffer.concat(wire));
      expect(parser.next()).toEqual({ kind: 'greeting', flags: 3 });
      parser.expectExportName(noZeroes);
      expect(parser.next()).toEqual({ kind: 'exportName', sizeBytes: 5 * 2 ** 40, flags: 7 });
      expect(parser.next()).toMatchObject({ kind: 'simple', cookie: 9n });
    }
  });
});

describe('decode(encode(x)) = x', () => {
  test('options and their replies', () => {
    fc.assert(
      fc.property(
        text,
        text,
        fc.array(u16, { maxLength: 8 }),
        fc.array(text),
        u32,
        (a, b, types, list, n) => {
          expect(decodeInfoRequest(encodeInfoRequest({ name: a, requests: types }))).toEqual({
            name: a,
            requests: types,
          });
          const meta = { name: a, queries: list };
          expect(decodeMetaContextRequest(encodeMetaContextRequest(meta))).toEqual(meta);
          expect(decodeServerEntry(encodeServerEntry(a, b))).toEqual({ name: a, description: b });
          expect(decodeMetaContext(encodeMetaContext(n, a))).toEqual({ id: n, name: a });
          expect(decodeInfo(encodeTextInfo(INFO.DESCRIPTION, b))).toEqual({ type: 'description', text: b });
        },
      ),
    );
  });

  test('information about the export', () => {
    fc.assert(
      fc.property(size, u16, fc.nat(16), fc.nat(15), fc.nat(), (sizeBytes, flags, min, more, max) => {
        expect(decodeInfo(encodeExportInfo(sizeBytes, flags))).toEqual({ type: 'export', sizeBytes, flags });
        const [minimumBytes, preferredBytes] = [2 ** min, 2 ** (min + more)];
        const sizes = { minimumBytes, preferredBytes, maximumBytes: minimumBytes + max };
        expect(decodeInfo(encodeBlockSizeInfo(sizes))).toEqual({ type: 'blockSize', ...sizes });
      }),
    );
  });

  test('payloads of chunks', () => {
    const descriptor = fc.record({ lengthBytes: fc.integer({ min: 1, max: 0xffff_ffff }), flags: u32 });
    const descriptors = fc.array(descriptor, { minLength: 1 });
    fc.assert(
      fc.property(size, bytes(50, 1), u32, descriptors, text, (offset, data, n, extents, message) => {
        const payload = (b: Buffer) => b.subarray(CHUNK_HEADER_BYTES);
        const header = encodeDataChunkHeader(1, 2n, offset, data.length);
        expect(decodeDataChunk(payload(Buffer.concat([header, data])))).toEqual({ offset, data });
        const hole = encodeHoleChunk(1, 2n, offset, data.length);
        expect(decodeHoleChunk(payload(hole))).toEqual({ offset, lengthBytes: data.length });
        const status = encodeStatusChunk(1, 2n, n, extents);
        expect(decodeStatusChunk(payload(status))).toEqual({ contextId: n, descriptors: extents });
        const error = encodeErrorChunk(1, 2n, 5, message, offset);
        expect(decodeErrorChunk(payload(error), true)).toEqual({ error: 5, message, offset });
        expect(error.readUInt16BE(6)).toBe(CHUNK.ERROR_OFFSET);
      }),
    );
  });
});

describe('garbage', () => {
  const decoders = [
    decodeInfoRequest,
    decodeMetaContextRequest,
    decodeServerEntry,
    decodeMetaContext,
    decodeInfo,
    decodeDataChunk,
    decodeHoleChunk,
    decodeStatusChunk,
    (b: Buffer) => decodeErrorChunk(b, false),
    (b: Buffer) => decodeErrorChunk(b, true),
  ];

  test('a decoder either decodes or fails with a code', () => {
    fc.assert(
      fc.property(bytes(64), fc.constantFrom(...decoders), (data, decode) => {
        try {
          decode(data);
        } catch (error) {
          expect(error).toBeInstanceOf(CloudapError);
        }
      }),
      { numRuns: 500 },
    );
  });

  test('a parser either waits or fails with a code, and stays failed', () => {
    fc.assert(
      fc.property(fc.array(bytes(80), { minLength: 1 }), fc.boolean(), (pieces, client) => {
        const parser = client
          ? new ReplyParser({ simplePayloadBytes: () => 0, admitChunk: () => {} })
          : new RequestParser();
        parser.beginTransmission();
        let failed: unknown;
        for (const piece of pieces) {
          parser.push(piece);
          try {
            while (parser.next() !== undefined);
          } catch (error) {
            failed ??= error;
            expect(error).toBe(failed);
          }
        }
        if (failed !== undefined) expect(errorCode(failed)).toMatch(/^NBD_/);
      }),
    );
  });

  test('announced lengths above the limits fail before any data', () => {
    const tooLong = encodeOption(1, Buffer.alloc(0));
    tooLong.writeUInt32BE(0xffff_ffff, 12);
    const options = new RequestParser();
    options.push(Buffer.concat([encodeClientFlags(3), tooLong]));
    options.next();
    expect(() => options.next()).toThrow(expect.objectContaining({ code: 'NBD_TOO_LARGE' }));

    const requests = new RequestParser({ maxRequestBytes: 4096 });
    requests.beginTransmission();
    requests.push(encodeRequest(COMMAND.WRITE, 0, 1n, 0, 4097));
    expect(() => requests.next()).toThrow(expect.objectContaining({ code: 'NBD_TOO_LARGE' }));

    for (const wire of [
      [encodeGreeting(3), Buffer.from('0003e889045565a90000000700000001ffffffff', 'hex')],
      [encodeGreeting(3), encodeChunkHeader(1, CHUNK.OFFSET_DATA, 1n, 0xffff_ffff)],
    ]) {
      const replies = new ReplyParser({ simplePayloadBytes: () => 0, admitChunk: () => {} });
      replies.push(Buffer.concat(wire));
      replies.next();
      if (wire[1]?.readUInt32BE(0) === 0x668e33ef) replies.beginTransmission();
      expect(() => replies.next()).toThrow(expect.objectContaining({ code: 'NBD_TOO_LARGE' }));
    }
  });

  test('strange block sizes are refused', () => {
    for (const [minimumBytes, preferredBytes, maximumBytes] of [
      [0, 4096, 65_536],
      [3, 4096, 65_536],
      [131_072, 131_072, 131_072],
      [512, 256, 65_536],
      [512, 1000, 65_536],
      [4096, 4096, 512],
    ] as const) {
      const data = encodeBlockSizeInfo({ minimumBytes, preferredBytes, maximumBytes });
      expect(() => decodeInfo(data)).toThrow(expect.objectContaining({ code: 'NBD_BAD_FRAME' }));
    }
  });
});
