import { DATA_HEADER_BYTES, MAX_FRAGMENT_BYTES } from '../wire/link/constants.ts';
import { encodeDataHeader } from '../wire/link/encode.ts';
import type { AckFrame } from '../wire/link/frames.ts';
import { abortable } from '../base/async.ts';
import { monotonicMs } from './clock.ts';
import { BULK_BACKLOG_BYTES, MAX_WAITING_SENDS, URGENT_PENDING_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import type { Lane } from './types.ts';
import type { WindowModel } from './window.ts';

/** What a lane needs of its connection: a place to write. */
export interface FrameWriter {
  writeData(header: Buffer, piece: Buffer): void;
  /** Pieces written between the two go out together. */
  cork(): void;
  uncork(): void;
}

interface Outgoing {
  seq: number;
  type: number;
  payload: Buffer;
}

interface Waiter {
  seq: number;
  resolve: () => void;
  reject: (error: Error) => void;
}

/**
 * The sending half of one lane. It keeps every message until the other side has handled it, and writes pieces to
 * the current connection as far as the lane's limits allow: for bulk the window (bytes on their way) and the
 * backlog (bytes not handled), for urgent nothing but the memory for what is kept.
 */
export class LaneSender {
  readonly #lane: Lane;
  readonly #model: WindowModel | undefined;
  /** Not handled yet, oldest first, from #head on; #kept[#next] is being written and #offset bytes of it are out. */
  #kept: Outgoing[] = [];
  #head = 0;
  #next = 0;
  #offset = 0;
  #lastSeq = 0;
  /** The furthest position ever written: all of #writtenSeq and #writtenOffset bytes of the next. */
  #writtenSeq = 0;
  #writtenOffset = 0;
  /** Payload bytes of what was written and not handled: kept[head .. next - 1]. */
  #aheadBytes = 0;
  #handledSeq = 0;
  #pendingBytes = 0;
  #writer: FrameWriter | undefined;
  #connectionSentBytes = 0;
  #connectionReceivedBytes = 0;
  #room: Waiter[] = [];
  #drains: Waiter[] = [];
  #ended: Error | undefined;

  bytesSent = 0;
  messagesSent = 0;

  /** `model` bounds the bulk lane; the urgent lane has none. */
  constructor(lane: Lane, model: WindowModel | undefined) {
    this.#lane = lane;
    this.#model = model;
  }

  /** On the current connection and not known to have arrived. */
  get bytesInFlight(): number {
    return this.#connectionSentBytes - this.#connectionReceivedBytes;
  }
  /** Payload bytes that the other side has not handled: what this end keeps in memory. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }
  get isIdle(): boolean {
    return this.#handledSeq === this.#lastSeq;
  }

  send(type: number, payload: Buffer): Promise<void> {
    if (this.#ended) return Promise.reject(this.#ended);
    if (this.#room.length >= MAX_WAITING_SENDS) {
      return Promise.reject(fail('LINK_OVERLOAD', `${this.#room.length} on the ${this.#lane} lane`));
    }
    this.#lastSeq += 1;
    this.#kept.push({ seq: this.#lastSeq, type, payload });
    this.#pendingBytes += payload.length;
    this.pump();
    if (this.#hasRoom()) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#room.push({ seq: this.#lastSeq, resolve, reject });
    });
  }

  drained(signal?: AbortSignal): Promise<void> {
    if (this.isIdle) return Promise.resolve();
    if (this.#ended) return Promise.reject(this.#ended);
    const waiting = new Promise<void>((resolve, reject) => {
      this.#drains.push({ seq: this.#lastSeq, resolve, reject });
    });
    waiting.catch(() => {});
    return abortable(waiting, signal);
  }

  /**
   * A connection is there, and its other end has this much. Returns false if that does not fit what was sent: more
   * than was written, or something of which the other end had already said that it was handled.
   */
  attach(writer: FrameWriter, receivedSeq: number, receivedOffsetBytes: number): boolean {
    const index = this.#head + (receivedSeq - this.#handledSeq);
    const partial = this.#kept[index];
    const offsetFits =
      receivedOffsetBytes === 0 || (partial !== undefined && receivedOffsetBytes < partial.payload.length);
    const wasWritten =
      receivedSeq < this.#writtenSeq ||
      (receivedSeq === this.#writtenSeq && receivedOffsetBytes <= this.#writtenOffset);
    if (receivedSeq < this.#handledSeq || !wasWritten || !offsetFits) return false;
    this.#writer = writer;
    this.#next = index;
    this.#offset = receivedOffsetBytes;
    this.#aheadBytes = 0;
    for (let i = this.#head; i < index; i += 1) this.#aheadBytes += this.#kept[i]?.payload.length ?? 0;
    this.#connectionSentBytes = 0;
    this.#connectionReceivedBytes = 0;
    this.#model?.reset();
    this.pump();
    this.#release();
    return true;
  }

  detach(): void {
    this.#writer = undefined;
    this.#connectionSentBytes = 0;
    this.#connectionReceivedBytes = 0;
    this.#model?.reset();
  }

  /** @throws LINK_PROTOCOL if it acknowledges what was never sent */
  acknowledged(ack: AckFrame): void {
    const { receivedBytes, handledSeq } = ack;
    const delivered = this.#model?.delivered(receivedBytes, ack.arrivedAtUs, monotonicMs()) ?? true;
    const counts =
      receivedBytes <= this.#connectionSentBytes &&
      receivedBytes >= this.#connectionReceivedBytes &&
      handledSeq < (this.#kept[this.#next]?.seq ?? this.#lastSeq + 1);
    if (!counts || !delivered) throw fail('LINK_PROTOCOL', 'an acknowledgement of what was not sent');
    this.#connectionReceivedBytes = receivedBytes;
    this.#handledUpTo(handledSeq);
    this.pump();
    this.#release();
  }

  /** Messages up to `seq` need not be kept; older news than what is known changes nothing. */
  #handledUpTo(seq: number): void {
    while (this.#handledSeq < seq) {
      const message = this.#kept[this.#head];
      if (!message) return;
      this.#pendingBytes -= message.payload.length;
      this.#aheadBytes -= message.payload.length;
      this.#handledSeq = message.seq;
      this.#head += 1;
    }
    if (this.#head >= 64 && this.#head * 2 >= this.#kept.length) {
      this.#kept.splice(0, this.#head);
      this.#next -= this.#head;
      this.#head = 0;
    }
    while (this.#drains[0] && this.#drains[0].seq <= this.#handledSeq) this.#drains.shift()?.resolve();
  }

  /** Writes as much as the limits allow. */
  pump(): void {
    const writer = this.#writer;
    if (!writer || this.#next >= this.#kept.length) return;
    writer.cork();
    let blocked: 'window' | 'backlog' | 'empty' | undefined;
    do blocked = this.#writeOne(writer);
    while (!blocked);
    writer.uncork();
    if (blocked !== 'window') this.#model?.appLimited();
  }

  /** Writes one piece, or says what forbids it. */
  #writeOne(writer: FrameWriter): 'window' | 'backlog' | 'empty' | undefined {
    const message = this.#kept[this.#next];
    if (!message) return 'empty';
    const { payload, seq, type } = message;
    const limit = this.#model?.fragmentBytes ?? MAX_FRAGMENT_BYTES;
    const pieceBytes = Math.min(limit, payload.length - this.#offset);
    const frameBytes = DATA_HEADER_BYTES + pieceBytes;
    if (this.#model) {
      if (!this.#model.allows(frameBytes)) return 'window';
      const backlogBytes = this.#model.windowBytes + BULK_BACKLOG_BYTES;
      if (this.#offset === 0 && this.#aheadBytes > backlogBytes) return 'backlog';
      this.#model.sent(frameBytes, monotonicMs());
    }
    const header = encodeDataHeader({
      seq,
      type,
      totalBytes: payload.length,
      offsetBytes: this.#offset,
      pieceBytes,
    });
    writer.writeData(header, payload.subarray(this.#offset, this.#offset + pieceBytes));
    this.#connectionSentBytes += frameBytes;
    this.bytesSent += frameBytes;
    this.#offset += pieceBytes;
    const isEnd = this.#offset === payload.length;
    if (seq === this.#writtenSeq + 1) {
      this.#writtenOffset = isEnd ? 0 : Math.max(this.#writtenOffset, this.#offset);
      if (isEnd) {
        this.#writtenSeq = seq;
        this.messagesSent += 1;
      }
    }
    if (isEnd) {
      this.#offset = 0;
      this.#next += 1;
      this.#aheadBytes += payload.length;
    }
    return undefined;
  }

  /** Bulk: half a window may wait here, so that the sender's own pauses leave no hole on the wire. */
  #hasRoom(): boolean {
    if (!this.#model) return this.#pendingBytes <= URGENT_PENDING_BYTES;
    const unwrittenBytes = this.#pendingBytes - this.#aheadBytes - this.#offset;
    return (
      unwrittenBytes <= this.#model.windowBytes / 2 &&
      this.#aheadBytes <= this.#model.windowBytes + BULK_BACKLOG_BYTES
    );
  }

  #release(): void {
    while (this.#room.length > 0 && this.#hasRoom()) this.#room.shift()?.resolve();
  }

  /** The session has ended: whoever waits hears why. */
  end(reason: Error): void {
    if (this.#ended) return;
    this.#ended = reason;
    this.#writer = undefined;
    for (const waiter of [...this.#room, ...this.#drains]) waiter.reject(reason);
    this.#room = [];
    this.#drains = [];
    this.#kept = [];
    this.#head = 0;
    this.#next = 0;
  }
}
