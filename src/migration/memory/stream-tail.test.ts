import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { codeOf } from '../../../test/kit/qemuStream.ts';
import { MAX_PRECOPY_TAIL_BYTES, StreamTail } from './stream-tail.ts';

function description(json: string): Buffer {
  const text = Buffer.from(json);
  const head = Buffer.alloc(6);
  head.writeUInt8(6, 1);
  head.writeUInt32BE(text.length, 2);
  return Buffer.concat([head, text]);
}

/** How many bytes had been pushed when the end was seen, or undefined. */
function endSeenAt(chunks: Iterable<Buffer>): number | undefined {
  const tail = new StreamTail();
  let pushed = 0;
  for (const chunk of chunks) {
    pushed += chunk.length;
    if (tail.push(chunk)) return pushed;
  }
  return undefined;
}

function* split(data: Buffer, cuts: readonly number[]): Generator<Buffer> {
  let from = 0;
  for (const cut of cuts.toSorted((a, b) => a - b)) {
    if (cut <= from || cut >= data.length) continue;
    yield data.subarray(from, cut);
    from = cut;
  }
  yield data.subarray(from);
}

const JSON_TEXT = '{"page_size":4096,"devices":[{"name":"timer","instance_id":0}]}';
const devices = Buffer.concat([
  Buffer.from([4, 0, 0, 0, 3]),
  Buffer.alloc(2000),
  // looks like an end and is none: its length does not fit
  description('{"devices":[]} ').subarray(0, -1),
  Buffer.from('0}}'),
]);
const stream = Buffer.concat([devices, description(JSON_TEXT)]);

test('the end is seen with the last byte and not before, cut anywhere', () => {
  for (let cut = 1; cut < stream.length; cut++) {
    expect(endSeenAt(split(stream, [cut]))).toBe(stream.length);
  }
  expect(endSeenAt(Array.from(stream, (_, i) => stream.subarray(i, i + 1)))).toBe(stream.length);
});

test('any device state, any description, any split', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 400 }),
      fc.jsonValue(),
      fc.array(fc.nat(1000), { maxLength: 8 }),
      (state, value, cuts) => {
        const json = JSON.stringify({ value }).replaceAll('\u0000', '');
        const data = Buffer.concat([Buffer.from(state), description(json)]);
        const seen = endSeenAt(split(data, cuts));
        expect(seen).toBe(data.length);
      },
    ),
  );
});

test('lengths of every size: bytes of the length that look like the header do not confuse', () => {
  for (const lengthBytes of [0x00, 0x06, 0x0600, 0x0606, 0x10000, 0x060000].map((n) => Math.max(n, 8))) {
    const json = `{"a":"${'x'.repeat(lengthBytes - 8)}"}`;
    const data = Buffer.concat([Buffer.alloc(50, 6), description(json)]);
    expect(endSeenAt([data.subarray(0, 60), data.subarray(60)])).toBe(data.length);
  }
});

test('arbitrary bytes never pass for an end unless they have the form of one', () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 30 }), (chunks) => {
      const seen = endSeenAt(chunks.map((chunk) => Buffer.from(chunk)));
      const all = Buffer.concat(chunks).subarray(0, seen ?? 0);
      if (seen !== undefined) expect(all.at(-1)).toBe(0x7d);
    }),
  );
});

test('what is held back is bounded', () => {
  const tail = new StreamTail();
  const mib = Buffer.alloc(1024 * 1024);
  for (let at = 0; at < MAX_PRECOPY_TAIL_BYTES; at += mib.length) tail.push(mib);
  expect(codeOf(() => tail.push(Buffer.alloc(1)))).toBe('MOVER_PROTOCOL');
});
