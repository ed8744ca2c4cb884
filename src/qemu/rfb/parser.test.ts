import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { errorCode } from '../../base/errors.ts';
import { ENCODING_DESKTOP_SIZE } from './encode.ts';
import { RfbParser, type ScreenUpdate } from './parser.ts';

function u16(...values: number[]): Buffer {
  const out = Buffer.alloc(values.length * 2);
  values.forEach((value, i) => out.writeUInt16BE(value, i * 2));
  return out;
}
function u32(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeInt32BE(value | 0);
  return out;
}
const text = (value: string) => Buffer.concat([u32(value.length), Buffer.from(value)]);
const hello = (width = 4, height = 2) =>
  Buffer.concat([
    Buffer.from('RFB 003.008\n\x01\x01', 'latin1'),
    u32(0),
    u16(width, height),
    Buffer.alloc(16),
    text('vm'),
  ]);
const rectangle = (x: number, y: number, width: number, height: number, fill: number) =>
  Buffer.concat([u16(x, y, width, height), u32(0), Buffer.alloc(width * height * 4, fill)]);
const update = (...rectangles: Buffer[]) =>
  Buffer.concat([Buffer.from([0, 0]), u16(rectangles.length), ...rectangles]);
const resize = (width: number, height: number) =>
  Buffer.concat([u16(0, 0, width, height), u32(ENCODING_DESKTOP_SIZE)]);

function parse(pieces: Iterable<Buffer>): {
  updates: ScreenUpdate[];
  replies: Buffer;
  names: string[];
  pixels: string;
} {
  const updates: ScreenUpdate[] = [];
  const replies: Buffer[] = [];
  const names: string[] = [];
  const parser = new RfbParser({
    reply: (bytes) => replies.push(bytes),
    ready: (name) => names.push(name),
    update: (one) => updates.push(one),
  });
  for (const piece of pieces) parser.push(piece);
  return {
    updates,
    replies: Buffer.concat(replies),
    names,
    pixels: parser.framebuffer.pixels.toString('hex'),
  };
}

function codeOf(...pieces: Buffer[]): string {
  try {
    parse([Buffer.concat(pieces)]);
    return 'none';
  } catch (error) {
    return errorCode(error);
  }
}

const conversation = Buffer.concat([
  hello(),
  update(rectangle(0, 0, 4, 2, 7), rectangle(1, 1, 2, 1, 9)),
  Buffer.from([2]),
  Buffer.concat([Buffer.from([3, 0, 0, 0]), text('clipboard')]),
  Buffer.concat([Buffer.from([1, 0]), u16(0, 2), Buffer.alloc(12)]),
  update(resize(2, 2), rectangle(0, 0, 2, 2, 1)),
  update(rectangle(0, 0, 2, 2, 1), rectangle(0, 0, 0, 0, 0)),
]);

describe('RfbParser', () => {
  it('answers the handshake and asks for pixels that it understands', () => {
    const { replies, names } = parse([hello()]);
    expect(names).toEqual(['vm']);
    expect(replies.subarray(0, 14).toString('latin1')).toBe('RFB 003.008\n\x01\x01');
    expect(replies.subarray(14).length).toBe(20 + 12);
  });

  it('puts rectangles into the framebuffer and says what changed', () => {
    const { updates, pixels } = parse([conversation]);
    expect(updates.map(({ pixels, changedPixels, resized }) => [pixels, changedPixels, resized])).toEqual([
      [10, 10, false],
      [4, 4, true],
      [4, 0, false],
    ]);
    expect(pixels).toBe('01'.repeat(16));
  });

  it('gives the same result for any cut of the bytes', () => {
    const whole = parse([conversation]);
    expect(parse([...conversation].map((byte) => Buffer.from([byte])))).toEqual(whole);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: conversation.length - 1 })), (cuts) => {
        const at = [0, ...cuts.sort((a, b) => a - b), conversation.length];
        expect(parse(at.slice(1).map((end, i) => conversation.subarray(at[i], end)))).toEqual(whole);
      }),
      { numRuns: 50 },
    );
  });

  it('says whether an update is still coming', () => {
    const parser = new RfbParser({ reply: () => {}, ready: () => {}, update: () => {} });
    const bytes = Buffer.concat([hello(), update(rectangle(0, 0, 4, 2, 7))]);
    parser.push(bytes.subarray(0, -1));
    expect(parser.updating).toBe(true);
    parser.push(bytes.subarray(-1));
    expect(parser.updating).toBe(false);
  });

  it('refuses what breaks the protocol or a limit', () => {
    expect(codeOf(Buffer.from('SSH-2.0-none\r\n'))).toBe('RFB_PROTOCOL');
    expect(codeOf(Buffer.from('RFB 003.008\n\0', 'latin1'), text('too many'))).toBe('RFB_REFUSED');
    expect(codeOf(Buffer.from('RFB 003.008\n\x01\x02', 'latin1'))).toBe('RFB_SECURITY');
    expect(codeOf(Buffer.from('RFB 003.008\n\x01\x01', 'latin1'), u32(1), text('no'))).toBe('RFB_REFUSED');
    expect(codeOf(hello().subarray(0, -6), u32(1e9))).toBe('RFB_LIMIT');
    expect(codeOf(hello(5000, 1))).toBe('RFB_LIMIT');
    expect(codeOf(hello(0, 1))).toBe('RFB_PROTOCOL');
    expect(codeOf(hello(), Buffer.from([77]))).toBe('RFB_PROTOCOL');
    expect(codeOf(hello(), update(rectangle(3, 0, 2, 1, 0)))).toBe('RFB_PROTOCOL');
    expect(codeOf(hello(), update(resize(65535, 65535)))).toBe('RFB_LIMIT');
    expect(codeOf(hello(), update(Buffer.concat([u16(0, 0, 1, 1), u32(16)])))).toBe('RFB_PROTOCOL');
    expect(codeOf(hello(), Buffer.from([0, 0]), u16(65535))).toBe('RFB_LIMIT');
    expect(codeOf(hello(), Buffer.from([3, 0, 0, 0]), u32(-1))).toBe('RFB_LIMIT');
  });

  it('throws coded errors only, whatever comes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(codeOf(hello(), Buffer.from(bytes))).toMatch(/^(none|RFB_)/);
      }),
    );
  });
});
