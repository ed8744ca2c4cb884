import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { codeOf } from '../../test/kit/qemuStream.ts';
import {
  type Control,
  decodeControl,
  decodeStreamEnd,
  decodeStreamMessage,
  encodeControl,
  encodeStreamEnd,
  encodeStreamMessage,
  errorForPeer,
  MAX_CONTROL_BYTES,
  MOVER_PROTOCOL_VERSION,
} from './messages.ts';

const hello: Control = {
  kind: 'hello',
  version: MOVER_PROTOCOL_VERSION,
  migrationId: 'm-1',
  vmId: 'vm1',
  generation: 3,
  preempt: true,
};

test('control messages come back as they were', () => {
  const messages: Control[] = [
    hello,
    { kind: 'ready' },
    { kind: 'resumed', atMs: 1.5 },
    { kind: 'released' },
    { kind: 'failed', error: { code: 'A', message: 'b', remedy: 'c' }, tookOver: true },
  ];
  for (const message of messages) expect(decodeControl(encodeControl(message))).toEqual(message);
});

test('another version, a missing field, too long a message are refused', () => {
  const change = (fields: object): Buffer => Buffer.from(JSON.stringify({ ...hello, ...fields }));
  expect(codeOf(() => decodeControl(change({ version: MOVER_PROTOCOL_VERSION + 1 })))).toBe('MOVER_PROTOCOL');
  expect(codeOf(() => decodeControl(change({ generation: undefined })))).toBe('MOVER_PROTOCOL');
  expect(codeOf(() => decodeControl(change({ kind: 'bye' })))).toBe('MOVER_PROTOCOL');
  const long = change({ vmId: 'x'.repeat(MAX_CONTROL_BYTES) });
  expect(codeOf(() => decodeControl(long))).toBe('MOVER_PROTOCOL');
});

test('an error of any length gets through', () => {
  const error = errorForPeer({ code: 'CODE', message: 'm'.repeat(100_000), remedy: '' });
  const message: Control = { kind: 'failed', error, tookOver: false };
  expect(decodeControl(encodeControl(message))).toEqual(message);
});

test('arbitrary bytes are refused with a code', () => {
  const coded = (run: () => unknown): void => {
    expect(['none', 'MOVER_PROTOCOL']).toContain(codeOf(run));
  };
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      const payload = Buffer.from(bytes);
      coded(() => decodeControl(payload));
      coded(() => decodeStreamMessage(payload));
      coded(() => decodeStreamEnd(payload));
    }),
  );
  fc.assert(fc.property(fc.json(), (json) => coded(() => decodeControl(Buffer.from(json)))));
  // each byte of a good one changed
  const good = encodeControl(hello);
  for (let at = 0; at < good.length; at++) {
    const bad = Buffer.from(good);
    bad.writeUInt8(bad.readUInt8(at) ^ 0x15, at);
    coded(() => decodeControl(bad));
  }
});

test('stream messages and ends come back as they were', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(0, 1),
      fc.boolean(),
      fc.nat(0xffff_ffff),
      fc.uint8Array({ maxLength: 50 }),
      (channel, takeover, sequence, bytes) => {
        const message = {
          channel: channel === 0 ? 0 : 1,
          takeover,
          sequence,
          frame: Buffer.from(bytes),
        } as const;
        expect(decodeStreamMessage(encodeStreamMessage(message))).toEqual(message);
        const end = encodeStreamEnd(message.channel, sequence);
        expect(decodeStreamEnd(end)).toEqual({ channel, messages: sequence });
      },
    ),
  );
});

test('the header of a stream message is checked in every byte', () => {
  const good = encodeStreamMessage({ channel: 0, takeover: false, sequence: 1, frame: Buffer.alloc(0) });
  for (const [at, value] of [
    [0, 2],
    [1, 2],
    [2, 1],
    [3, 1],
  ] as const) {
    const bad = Buffer.from(good);
    bad.writeUInt8(value, at);
    expect(codeOf(() => decodeStreamMessage(bad))).toBe('MOVER_PROTOCOL');
  }
  for (const at of [0, 1, 2, 3]) {
    const bad = encodeStreamEnd(0, 5);
    bad.writeUInt8(2, at);
    expect(codeOf(() => decodeStreamEnd(bad))).toBe('MOVER_PROTOCOL');
  }
  expect(codeOf(() => decodeStreamMessage(good.subarray(1)))).toBe('MOVER_PROTOCOL');
  expect(codeOf(() => decodeStreamEnd(Buffer.alloc(9)))).toBe('MOVER_PROTOCOL');
});
