import { expect, test } from 'vitest';
import { MAX_MESSAGE_BYTES } from '../wire/link/constants.ts';
import {
  MAX_UNHANDLED_BYTES,
  MAX_UNHANDLED_MESSAGES,
  MAX_WAITING_SENDS,
  URGENT_PENDING_BYTES,
} from './constants.ts';
import { LaneReceiver } from './lane-receiver.ts';
import { LaneSender } from './lane-sender.ts';

const coded = (code: string): unknown => expect.objectContaining({ code });
const stuck = (): LaneReceiver =>
  new LaneReceiver('urgent', () => new Promise<void>(() => {}), { onHandled: () => {}, onFailure: () => {} });

test('bytes that a peer sends and nobody handles', () => {
  const receiver = stuck();
  const totalBytes = MAX_MESSAGE_BYTES;
  const piece = Buffer.alloc(totalBytes);
  const header = (seq: number) => ({ seq, type: 1, totalBytes, offsetBytes: 0, pieceBytes: totalBytes });
  let seq = 1;
  for (; seq <= MAX_UNHANDLED_BYTES / totalBytes; seq++) {
    receiver.data(header(seq));
    receiver.piece(piece);
  }
  expect(() => receiver.data(header(seq))).toThrow(coded('LINK_FLOODED'));
});

test('messages that a peer sends and nobody handles', () => {
  const receiver = stuck();
  const flood = (): void => {
    for (let seq = 1; seq <= MAX_UNHANDLED_MESSAGES + 3; seq++) {
      receiver.data({ seq, type: 1, totalBytes: 0, offsetBytes: 0, pieceBytes: 0 });
    }
  };
  expect(flood).toThrow(coded('LINK_FLOODED'));
  expect(receiver.messagesReceived).toBeGreaterThan(MAX_UNHANDLED_MESSAGES);
});

test('sends that wait for room', async () => {
  const sender = new LaneSender('urgent', undefined);
  const full = sender.send(1, Buffer.alloc(URGENT_PENDING_BYTES));
  await full;
  const waiting = Array.from({ length: MAX_WAITING_SENDS }, () => sender.send(1, Buffer.alloc(1)));
  for (const promise of waiting) promise.catch(() => {});
  await expect(sender.send(1, Buffer.alloc(1))).rejects.toEqual(coded('LINK_OVERLOAD'));
});
