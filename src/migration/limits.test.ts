import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { tempDir } from '../../test/kit/tempdir.ts';
import { CODEC_RAW } from '../wire/codec.ts';
import * as disk from '../wire/disk/index.ts';
import { MAX_BAD_IN_A_ROW, MAX_REPLAY_QUEUE_FRAMES } from './disk/constants.ts';
import { ReplayQueue } from './disk/replay.ts';
import { Verifier } from './disk/verifier.ts';
import { MAX_PRECOPY_TAIL_BYTES, StreamTail } from './memory/stream-tail.ts';
import { MAX_REORDERED_MESSAGES, MemoryTarget } from './memory/target.ts';
import { encodeStreamMessage } from './messages.ts';

const coded = (code: string): unknown => expect.objectContaining({ code });

test('device state that is held back', () => {
  const tail = new StreamTail();
  const piece = Buffer.alloc(MAX_PRECOPY_TAIL_BYTES / 4);
  for (let i = 0; i < 4; i++) expect(tail.push(piece)).toBe(false);
  expect(() => tail.push(Buffer.from([0]))).toThrow(coded('MOVER_PROTOCOL'));
});

test('stream messages out of order', async () => {
  await using dir = await tempDir();
  const sockets: Socket[] = [];
  const qemu = createServer((socket) => sockets.push(socket)).listen(dir.file('qemu'));
  await once(qemu, 'listening');
  const target = new MemoryTarget({
    preempt: false,
    socketPath: dir.file('qemu'),
    onTakeover: () => Promise.resolve(),
    onReturn: () => {},
  });
  await target.connect();
  const message = (sequence: number): Buffer =>
    encodeStreamMessage({ channel: 0, takeover: false, sequence, frame: Buffer.alloc(0) });
  for (let i = 1; i <= MAX_REORDERED_MESSAGES; i++) void target.handle(message(i), 'urgent');
  expect(() => target.handle(message(MAX_REORDERED_MESSAGES + 1), 'urgent')).toThrow(coded('MOVER_PROTOCOL'));
  await target[Symbol.asyncDispose]();
  for (const socket of sockets) socket.destroy();
  qemu.close();
});

test('damaged disk frames in a row', () => {
  const message = disk.encodeData(0, 0, { first: 0, count: 1 }, Buffer.alloc(4096, 1), CODEC_RAW);
  const good = disk.decodeData(message, 4096);
  const bad = { ...good, crc: good.crc ^ 1 };
  const verifier = new Verifier();
  for (let i = 0; i < MAX_BAD_IN_A_ROW; i++) expect(verifier.unpack(bad, 1, 4096)).toBe('bad');
  verifier.unpack(good, 1, 4096);
  for (let i = 0; i < MAX_BAD_IN_A_ROW; i++) expect(verifier.unpack(bad, 1, 4096)).toBe('bad');
  expect(() => verifier.unpack(bad, 1, 4096)).toThrow(coded('DISK_CORRUPT'));
});

test('messages that wait to be written', async () => {
  const queue = new ReplayQueue(() => {});
  const first = queue.add(false, 0, () => {});
  for (let i = 1; i < MAX_REPLAY_QUEUE_FRAMES; i++) queue.add(false, 0, () => {}).catch(() => {});
  expect(() => queue.add(true, 0, () => {})).toThrow(coded('DISK_LIMIT'));
  await first;
  queue.failAll(new Error('over'));
  await queue.settled();
});
