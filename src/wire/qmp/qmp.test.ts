import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errorCode } from '../../base/errors.ts';
import { QMP_MAX_COMMAND_BYTES } from './constants.ts';
import { QmpDecoder } from './decode.ts';
import { encodeCommand } from './encode.ts';
import type { QmpMessage } from './messages.ts';

const greeting =
  '{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}';
const event =
  '{"timestamp": {"seconds": 1700000000, "microseconds": 123456}, "event": "STOP", "data": {"x": "\u00e9\u20ac\ud83d\ude00"}}';

/** Pushes the pieces; what came out, and the code of the failure if there was one. */
function decode(pieces: readonly Buffer[], maxLineBytes?: number): { messages: QmpMessage[]; code?: string } {
  const messages: QmpMessage[] = [];
  const decoder = new QmpDecoder((message) => messages.push(message), maxLineBytes);
  for (const piece of pieces) {
    try {
      decoder.push(piece);
    } catch (error) {
      return { messages, code: errorCode(error) };
    }
  }
  return { messages };
}

function cut(bytes: Buffer, points: readonly number[]): Buffer[] {
  const ends = [...new Set(points.map((p) => p % (bytes.length + 1)))].sort((a, b) => a - b);
  return [...ends, bytes.length].map((end, i) => bytes.subarray(i === 0 ? 0 : ends[i - 1], end));
}

const jsonObject = fc
  .dictionary(fc.string({ unit: 'grapheme' }), fc.jsonValue())
  .map((o) => JSON.stringify(o));
const line = fc.oneof(
  fc.constant(greeting),
  fc.constant(event),
  fc.tuple(fc.nat(), jsonObject).map(([id, value]) => `{"return": ${value}, "id": ${id}}`),
  fc
    .tuple(fc.nat(), fc.string())
    .map(([id, desc]) => JSON.stringify({ id, error: { class: 'GenericError', desc } })),
);

describe('decoding', () => {
  test('knows the four kinds of message', () => {
    const text = [
      greeting,
      event,
      '{"return": {}, "id": 1}',
      '{"id": 2, "error": {"class": "C", "desc": "d"}}',
    ];
    const { messages } = decode([Buffer.from(`${text.join('\r\n')}\r\n`)]);
    expect(messages).toEqual([
      {
        kind: 'greeting',
        version: { major: 7, minor: 2, micro: 22 },
        package: 'Debian',
        capabilities: ['oob'],
      },
      { kind: 'event', name: 'STOP', data: { x: 'é€😀' }, timestampMs: 1700000000123.456 },
      { kind: 'return', id: 1, value: {} },
      { kind: 'error', id: 2, errorClass: 'C', description: 'd' },
    ]);
  });

  test('splits anywhere, byte by byte too, give the same messages', () => {
    fc.assert(
      fc.property(
        fc.array(line, { maxLength: 6 }),
        fc.array(fc.nat(), { maxLength: 12 }),
        (lines, points) => {
          const bytes = Buffer.from(lines.map((l) => `${l}\r\n`).join(''));
          const whole = decode([bytes]);
          expect(whole.messages).toHaveLength(lines.length);
          expect(decode(cut(bytes, points))).toEqual(whole);
          expect(decode(cut(bytes, [...bytes.keys()]))).toEqual(whole);
        },
      ),
      { numRuns: 60 },
    );
  });

  test('any bytes give messages or a coded error, nothing else', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 8 }), (chunks) => {
        const { code } = decode(
          chunks.map((c) => Buffer.from(c)),
          256,
        );
        expect(['QMP_MALFORMED', 'QMP_LINE_TOO_LONG', undefined]).toContain(code);
      }),
    );
  });

  test.each([
    ['no JSON', 'QEMU 7.2 monitor - type help'],
    ['no object', '[1]'],
    ['null', 'null'],
    ['of no kind', '{"id": 1}'],
    ['an event without a time', '{"event": "STOP"}'],
    ['an event whose data is no object', '{"event":"A","data":3,"timestamp":{"seconds":1,"microseconds":1}}'],
    ['an error without a class', '{"error": {"desc": "x"}, "id": 1}'],
    ['a greeting without a version', '{"QMP": {"capabilities": []}}'],
    ['deep nesting', '['.repeat(100_000)],
  ])('a line that is %s is malformed', (_, text) => {
    expect(decode([Buffer.from(`${text}\n`)])).toEqual({ messages: [], code: 'QMP_MALFORMED' });
  });

  test('broken UTF-8 is malformed', () => {
    expect(decode([Buffer.from([0x22, 0xc3, 0x28, 0x22, 0x0a])]).code).toBe('QMP_MALFORMED');
  });

  test('what stands before a bad line is delivered; nothing after it', () => {
    const messages: QmpMessage[] = [];
    const decoder = new QmpDecoder((m) => messages.push(m));
    const bytes = Buffer.from(`${greeting}\nrubbish\n${event}\n`);
    expect(() => decoder.push(bytes)).toThrow(expect.objectContaining({ code: 'QMP_MALFORMED' }));
    expect(() => decoder.push(Buffer.from(`${event}\n`))).toThrow(
      expect.objectContaining({ code: 'QMP_MALFORMED' }),
    );
    expect(messages.map((m) => m.kind)).toEqual(['greeting']);
  });

  test('the line limit is checked before anything is buffered', () => {
    const full = `{"return": "${'x'.repeat(86)}"}`;
    expect(full).toHaveLength(100);
    expect(decode([Buffer.from(`${full}\n`)], 100).messages).toHaveLength(1);
    expect(decode([Buffer.from(`${full} \n`)], 100).code).toBe('QMP_LINE_TOO_LONG');
    expect(decode(cut(Buffer.from(`${full} `), [1, 50, 90]), 100).code).toBe('QMP_LINE_TOO_LONG');
    const decoder = new QmpDecoder(() => {}, 100);
    decoder.push(Buffer.alloc(100, 0x20));
    expect(decoder.pendingBytes).toBe(100);
    expect(() => decoder.push(Buffer.alloc(1, 0x20))).toThrow();
  });

  test('a chunk may be overwritten after the push', () => {
    const chunk = Buffer.from('{"return"');
    const messages: QmpMessage[] = [];
    const decoder = new QmpDecoder((m) => messages.push(m));
    decoder.push(chunk);
    chunk.fill(0);
    decoder.push(Buffer.from(': 5, "id": 1}\n'));
    expect(messages).toEqual([{ kind: 'return', id: 1, value: 5 }]);
  });

  test('an unreadable clock gives no timestamp', () => {
    const { messages } = decode([
      Buffer.from('{"event": "A", "timestamp": {"seconds": -1, "microseconds": -1}}\n'),
    ]);
    expect(messages[0]).toMatchObject({ timestampMs: undefined, data: {} });
  });
});

describe('encoding', () => {
  test('a command is one line that reads back as itself', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme' }),
        fc.dictionary(fc.string(), fc.jsonValue()),
        fc.nat(),
        fc.boolean(),
        (name, args, id, oob) => {
          const text = encodeCommand({ execute: name, arguments: args, id, oob }).toString('utf8');
          expect(text.indexOf('\n')).toBe(text.length - 1);
          expect(JSON.parse(text)).toEqual(
            JSON.parse(JSON.stringify({ [oob ? 'exec-oob' : 'execute']: name, arguments: args, id })),
          );
        },
      ),
    );
  });

  test.each([
    ['a lone surrogate', { path: '\ud800' }],
    ['a lone surrogate in a key', { '\udc00': 1 }],
    ['not a number', { x: Number.NaN }],
    ['a bigint', { x: 1n }],
    ['too large', { x: 'x'.repeat(QMP_MAX_COMMAND_BYTES) }],
  ])('%s cannot be sent', (_, args) => {
    expect(() => encodeCommand({ execute: 'a', arguments: args, id: 1 })).toThrow(
      expect.objectContaining({ code: 'QMP_UNSENDABLE' }),
    );
  });
});
