import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errorCode } from '../../base/errors.ts';
import { MessageAssembler } from './assembler.ts';
import { DATA_HEADER_BYTES, MAX_FRAGMENT_BYTES, MAX_HELLO_BYTES, MAX_MESSAGE_BYTES } from './constants.ts';
import { encodeControl, encodeDataHeader } from './encode.ts';
import type { ControlFrame, DataHeader, FrameSink, HelloFrame } from './frames.ts';
import { FrameParser } from './parser.ts';
import { encodePreamble, parsePreamble } from './preamble.ts';

type Seen = ControlFrame | (DataHeader & { kind: 'data'; bytes: Buffer });

/** Collects what a parser delivers, pieces put together. */
class Collector implements FrameSink {
  seen: Seen[] = [];
  data(header: DataHeader): void {
    this.seen.push({ kind: 'data', ...header, bytes: Buffer.alloc(0) });
  }
  piece(bytes: Buffer): void {
    const last = this.seen.at(-1);
    if (last?.kind === 'data') last.bytes = Buffer.concat([last.bytes, bytes]);
  }
  control(frame: ControlFrame): void {
    this.seen.push(frame);
  }
}

function encode(frame: Seen): Buffer {
  if (frame.kind !== 'data') return encodeControl(frame);
  return Buffer.concat([encodeDataHeader(frame), frame.bytes]);
}

function parse(chunks: readonly Buffer[]): Seen[] {
  const sink = new Collector();
  const parser = new FrameParser(sink);
  for (const chunk of chunks) parser.push(chunk);
  return sink.seen;
}

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return errorCode(error);
  }
  return 'none';
}

const counter = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
const hex16 = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .map((bytes) => Buffer.from(bytes).toString('hex'));
const notZero = hex16.filter((hex) => hex !== '0'.repeat(32));
const name = fc.stringMatching(/^[a-zA-Z0-9._-]{0,64}$/);
const controlFrame: fc.Arbitrary<ControlFrame> = fc.oneof(
  fc.record({
    kind: fc.constant('ack' as const),
    receivedBytes: counter,
    arrivedAtUs: counter,
    handledSeq: counter,
  }),
  fc.record({ kind: fc.constant('ping' as const), clockUs: counter }),
  fc.record({ kind: fc.constant('pong' as const), echoUs: counter, clockUs: counter }),
  fc.record({
    kind: fc.constant('hello' as const),
    version: fc.constant(1),
    lane: fc.constantFrom('urgent' as const, 'bulk' as const),
    instance: notZero,
    peerInstance: fc.option(notZero, { nil: undefined }),
    receivedSeq: counter,
    receivedOffsetBytes: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    sessionId: name,
    siteId: name,
  }),
  fc.record({
    kind: fc.constant('close' as const),
    reason: fc.integer({ min: 1, max: 65_535 }),
    code: fc.stringMatching(/^[A-Z_]{0,64}$/),
    text: fc.string({ unit: 'grapheme', maxLength: 40 }),
  }),
);
const dataFrame: fc.Arbitrary<Seen> = fc
  .record({
    seq: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }),
    type: fc.integer({ min: 1, max: 255 }),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 300 }).map((bytes) => Buffer.from(bytes)),
    before: fc.nat(1000),
    after: fc.nat(1000),
  })
  .map(({ seq, type, bytes, before, after }) => ({
    kind: 'data' as const,
    seq,
    type,
    bytes,
    pieceBytes: bytes.length,
    offsetBytes: before,
    totalBytes: before + bytes.length + after,
  }));
const frames = fc.array(fc.oneof(controlFrame, dataFrame), { maxLength: 12 });

const hello: HelloFrame = {
  kind: 'hello',
  version: 1,
  lane: 'bulk',
  instance: '01'.repeat(16),
  peerInstance: undefined,
  receivedSeq: 0,
  receivedOffsetBytes: 0,
  sessionId: 'mig-1',
  siteId: 'ap1',
};

describe('frames', () => {
  test('decode(encode(x)) = x: glued, byte by byte and at random splits', () => {
    fc.assert(
      fc.property(frames, fc.array(fc.nat(200), { maxLength: 40 }), (list, cuts) => {
        const whole = Buffer.concat(list.map(encode));
        expect(parse([whole])).toEqual(list);
        expect(parse(Array.from(whole, (byte) => Buffer.of(byte)))).toEqual(list);
        const chunks: Buffer[] = [];
        let at = 0;
        for (const cut of cuts) {
          chunks.push(whole.subarray(at, at + cut));
          at += cut;
        }
        expect(parse([...chunks, whole.subarray(at)])).toEqual(list);
      }),
      { numRuns: 150 },
    );
  });

  test('a truncated frame delivers no control frame and no error', () => {
    fc.assert(
      fc.property(controlFrame, fc.nat(), (frame, cut) => {
        const bytes = encode(frame);
        expect(parse([bytes.subarray(0, cut % bytes.length)])).toEqual([]);
      }),
    );
  });

  test('hostile bytes give frames or a coded error, never another exception', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.integer({ min: 0, max: 7 }), (bytes, kind) => {
        const buffer = Buffer.from(bytes);
        if (buffer.length > 8) {
          buffer[0] = kind;
          buffer.fill(0, 2, 6);
          buffer[6] = 0;
        }
        expect(['none', 'LINK_BAD_FRAME', 'LINK_MESSAGE_TOO_LARGE', 'LINK_VERSION']).toContain(
          codeOf(() => parse([buffer])),
        );
      }),
      { numRuns: 500 },
    );
  });

  test.each([
    ['kind 0', (b: Buffer) => b.writeUInt8(0, 0)],
    ['an unknown kind', (b: Buffer) => b.writeUInt8(9, 0)],
    ['reserved bytes', (b: Buffer) => b.writeUInt8(1, 2)],
    ['a type on a control frame', (b: Buffer) => b.writeUInt8(1, 1)],
    ['a body that is too short', (b: Buffer) => b.writeUInt32BE(7, 4)],
    ['a body of 4 GiB', (b: Buffer) => b.writeUInt32BE(0xffffffff, 4)],
    ['a HELLO above its limit', (b: Buffer) => b.writeUInt32BE(MAX_HELLO_BYTES + 1, 4)],
    ['a HELLO with bytes left over', (b: Buffer) => b.writeUInt8(3, b.length - 4)],
    ['a wrong magic', (b: Buffer) => b.writeUInt8(0, 8)],
    ['lane 0', (b: Buffer) => b.writeUInt8(0, 14)],
    ['lane 3', (b: Buffer) => b.writeUInt8(3, 14)],
    ['an instance of zeros', (b: Buffer) => b.fill(0, 16, 32)],
    ['a counter beyond 2^53', (b: Buffer) => b.writeUInt8(0xff, 48)],
  ])('HELLO with %s is LINK_BAD_FRAME', (_name, spoil) => {
    const bytes = encodeControl(hello);
    spoil(bytes);
    // a header that is refused is refused before its body is there
    expect(codeOf(() => parse([bytes, Buffer.alloc(1100)]))).toBe('LINK_BAD_FRAME');
  });

  test('a HELLO of another version is told by its number, also if it is longer than ours', () => {
    const bytes = encodeControl(hello);
    bytes.writeUInt16BE(2, 12);
    expect(codeOf(() => parse([bytes]))).toBe('LINK_VERSION');
    const longer = Buffer.concat([bytes, Buffer.alloc(100)]);
    longer.writeUInt32BE(longer.length - 8, 4);
    expect(codeOf(() => parse([longer]))).toBe('LINK_VERSION');
  });

  test('the sizes of DATA are checked before any of it is kept', () => {
    const header = (change: (b: Buffer) => void): Buffer => {
      const b = encodeDataHeader({ seq: 1, type: 1, totalBytes: 100, offsetBytes: 0, pieceBytes: 100 });
      change(b);
      return b;
    };
    const cases: [string, Buffer][] = [
      ['LINK_MESSAGE_TOO_LARGE', header((b) => b.writeUInt32BE(MAX_MESSAGE_BYTES + 1, 16))],
      ['LINK_BAD_FRAME', header((b) => b.writeUInt32BE(16 + MAX_FRAGMENT_BYTES + 1, 4))],
      ['LINK_BAD_FRAME', header((b) => b.writeUInt32BE(99, 16))],
      ['LINK_BAD_FRAME', header((b) => b.writeUInt32BE(1, 20))],
      ['LINK_BAD_FRAME', header((b) => b.writeUInt32BE(16, 4))],
      ['LINK_BAD_FRAME', header((b) => b.fill(0, 8, 16))],
      ['LINK_BAD_FRAME', header((b) => b.writeUInt8(0, 1))],
    ];
    for (const [code, bytes] of cases) expect(codeOf(() => parse([bytes]))).toBe(code);
  });

  test('after an error each further push throws it again', () => {
    const parser = new FrameParser(new Collector());
    expect(codeOf(() => parser.push(Buffer.alloc(8)))).toBe('LINK_BAD_FRAME');
    expect(codeOf(() => parser.push(encodeControl(hello)))).toBe('LINK_BAD_FRAME');
  });

  test('the encoder refuses what the parser would refuse', () => {
    const good: DataHeader = { seq: 1, type: 1, totalBytes: 10, offsetBytes: 0, pieceBytes: 10 };
    expect(encodeDataHeader(good)).toHaveLength(DATA_HEADER_BYTES);
    expect(codeOf(() => encodeDataHeader({ ...good, type: 0 }))).toBe('LINK_BAD_ARGUMENT');
    expect(codeOf(() => encodeDataHeader({ ...good, type: 256 }))).toBe('LINK_BAD_ARGUMENT');
    expect(codeOf(() => encodeDataHeader({ ...good, seq: -1 }))).toBe('LINK_BAD_ARGUMENT');
    expect(codeOf(() => encodeDataHeader({ ...good, offsetBytes: 1 }))).toBe('LINK_BAD_ARGUMENT');
    expect(codeOf(() => encodeDataHeader({ ...good, totalBytes: MAX_MESSAGE_BYTES + 1 }))).toBe(
      'LINK_MESSAGE_TOO_LARGE',
    );
    expect(codeOf(() => encodeControl({ ...hello, sessionId: 'x'.repeat(65) }))).toBe('LINK_BAD_ARGUMENT');
    expect(codeOf(() => encodeControl({ ...hello, siteId: 'ä' }))).toBe('LINK_BAD_ARGUMENT');
  });

  test('a long explanation in CLOSE is cut at a character', () => {
    const [frame] = parse([encodeControl({ kind: 'close', reason: 2, code: 'X', text: 'ä'.repeat(400) })]);
    expect(frame).toMatchObject({ kind: 'close', text: 'ä'.repeat(256) });
  });
});

describe('messages', () => {
  const header = (change: Partial<DataHeader>): DataHeader => ({
    seq: 1,
    type: 7,
    totalBytes: 6,
    offsetBytes: 0,
    pieceBytes: 3,
    ...change,
  });

  test('are put together across frames, and across connections at any byte', () => {
    const assembler = new MessageAssembler();
    assembler.data(header({}));
    expect(assembler.piece(Buffer.from('ab'))).toBeUndefined();
    // the connection is lost here; the next one goes on at the byte that is missing
    expect([assembler.receivedSeq, assembler.receivedOffsetBytes]).toEqual([0, 2]);
    assembler.data(header({ offsetBytes: 2, pieceBytes: 4 }));
    expect(assembler.piece(Buffer.from('cdef'))).toEqual({ seq: 1, type: 7, payload: Buffer.from('abcdef') });
    expect(assembler.data(header({ seq: 2, totalBytes: 0, pieceBytes: 0 }))?.payload).toHaveLength(0);
    expect([assembler.receivedSeq, assembler.receivedOffsetBytes]).toEqual([2, 0]);
  });

  test.each([
    ['a gap', { seq: 2, offsetBytes: 0 }],
    ['a duplicate', { seq: 0, offsetBytes: 0 }],
    ['a gap in the message', { offsetBytes: 3 }],
    ['another total', { offsetBytes: 2, totalBytes: 7 }],
    ['another type', { offsetBytes: 2, type: 8 }],
  ])('%s is LINK_BAD_FRAME', (_name, change) => {
    const assembler = new MessageAssembler();
    assembler.data(header({}));
    assembler.piece(Buffer.from('ab'));
    expect(codeOf(() => assembler.data(header(change)))).toBe('LINK_BAD_FRAME');
  });
});

describe('gateway preamble', () => {
  test('decode(encode(x)) = x, whatever follows and however little is there', () => {
    fc.assert(
      fc.property(
        fc.stringMatching(/^[a-z0-9-]{1,64}$/),
        fc.uint8Array({ maxLength: 20 }),
        (route, after) => {
          const bytes = encodePreamble(route);
          expect(parsePreamble(Buffer.concat([bytes, after]))).toEqual({ route, rest: Buffer.from(after) });
          for (let i = 0; i < bytes.length; i += 1)
            expect(parsePreamble(bytes.subarray(0, i))).toBeUndefined();
        },
      ),
    );
  });

  test.each([
    ['other protocols', Buffer.from('GET / HTTP/1.1\r\n')],
    ['the first wrong byte', Buffer.from('X')],
    ['another version', Buffer.from('CAPG\x02\x01a')],
    ['an empty route', Buffer.from('CAPG\x01\x00')],
    ['a long route', Buffer.from('CAPG\x01\x41')],
    ['a path', Buffer.from('CAPG\x01\x04../x')],
  ])('%s: LINK_BAD_PREAMBLE', (_name, bytes) => {
    expect(codeOf(() => parsePreamble(bytes))).toBe('LINK_BAD_PREAMBLE');
  });

  test('routes that cannot be are not encoded', () => {
    for (const route of ['', 'A', 'a/b', '..', 'x'.repeat(65)]) {
      expect(codeOf(() => encodePreamble(route))).toBe('LINK_BAD_ARGUMENT');
    }
  });
});
