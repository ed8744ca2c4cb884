import type { Socket } from 'node:net';
import { monotonicMs } from './clock.ts';
import { EMULATOR_QUEUE_MIN_BYTES } from './constants.ts';

/** Pieces are cut to half a millisecond of the line within these, so that bytes flow instead of jumping. */
const SLICE_MIN_BYTES = 1500;
const SLICE_MAX_BYTES = 64 * 1024;
/** Undelivered bytes a receiver may leave in our memory before its sender is stopped. */
const RECEIVER_BACKLOG_BYTES = 4 * 1024 * 1024;

interface Piece {
  pipe: Pipe;
  /** Undefined: the end of the stream. */
  bytes: Buffer | undefined;
  departsMs: number;
  dueMs: number;
}

/** One direction of one connection. */
export interface Pipe {
  from: Socket;
  to: Socket;
  /** Delivery of the piece before: no later piece comes earlier. */
  lastDueMs: number;
}

/** One direction of the link, shared by all connections. */
export class Direction {
  bytes = 0;
  maxQueueBytes = 0;
  rateBytesPerMs = Number.POSITIVE_INFINITY;
  delayMs = 0;
  jitterMs = 0;
  queueLimitBytes = EMULATOR_QUEUE_MIN_BYTES;
  readonly pipes = new Set<Pipe>();
  readonly #random: () => number;
  #pieces: Piece[] = [];
  /** Delivered up to here, and departed up to there. */
  #head = 0;
  #departed = 0;
  #queueBytes = 0;
  #freeMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #isCut = false;

  constructor(random: () => number) {
    this.#random = random;
  }

  take(pipe: Pipe, chunk: Buffer): void {
    const sliceBytes = Math.min(
      SLICE_MAX_BYTES,
      Math.max(SLICE_MIN_BYTES, Math.round(this.rateBytesPerMs / 2)),
    );
    for (let at = 0; at < chunk.length; at += sliceBytes) {
      this.#enqueue(pipe, chunk.subarray(at, at + sliceBytes));
    }
    this.bytes += chunk.length;
    this.maxQueueBytes = Math.max(this.maxQueueBytes, this.#queueBytes);
    if (this.#isFull()) for (const each of this.pipes) each.from.pause();
    this.#arm();
  }

  end(pipe: Pipe): void {
    this.#enqueue(pipe, undefined);
    this.#arm();
  }

  #enqueue(pipe: Pipe, bytes: Buffer | undefined): void {
    const nowMs = monotonicMs();
    const lengthBytes = bytes?.length ?? 0;
    const departsMs = Math.max(nowMs, this.#freeMs) + lengthBytes / this.rateBytesPerMs;
    this.#freeMs = departsMs;
    const jitterMs = this.jitterMs === 0 ? 0 : (this.#random() * 2 - 1) * this.jitterMs;
    const dueMs = Math.max(pipe.lastDueMs, departsMs + Math.max(0, this.delayMs + jitterMs));
    pipe.lastDueMs = dueMs;
    this.#queueBytes += lengthBytes;
    this.#pieces.push({ pipe, bytes, departsMs, dueMs });
  }

  #isFull(): boolean {
    return this.#queueBytes >= this.queueLimitBytes;
  }

  /** True if a connection's sender may go on. */
  mayRead(pipe: Pipe): boolean {
    return !this.#isCut && !this.#isFull() && pipe.to.writableLength < RECEIVER_BACKLOG_BYTES;
  }

  resume(): void {
    if (this.#isCut) return;
    for (const pipe of this.pipes) {
      if (this.mayRead(pipe)) pipe.from.resume();
      else pipe.from.pause();
    }
  }

  cut(): void {
    this.#isCut = true;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const pipe of this.pipes) pipe.from.pause();
  }

  /** What was under way when the link was cut arrives now, as TCP sends it again. */
  restore(): void {
    this.#isCut = false;
    this.#freeMs = Math.max(this.#freeMs, monotonicMs());
    this.resume();
    this.#run();
  }

  #arm(): void {
    if (this.#timer || this.#isCut) return;
    const next = this.#pieces[this.#head];
    if (!next) return;
    const departs = this.#pieces[this.#departed]?.departsMs ?? Number.POSITIVE_INFINITY;
    const inMs = Math.min(next.dueMs, departs) - monotonicMs();
    // Node's timers are late by half a millisecond on average: rounding down makes up for it
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#run();
      },
      Math.max(1, Math.floor(inMs)),
    );
  }

  #run(): void {
    const nowMs = monotonicMs() + 0.5;
    while ((this.#pieces[this.#departed]?.departsMs ?? Number.POSITIVE_INFINITY) <= nowMs) {
      this.#queueBytes -= this.#pieces[this.#departed]?.bytes?.length ?? 0;
      this.#departed += 1;
    }
    const touched = new Set<Socket>();
    for (;;) {
      const piece = this.#pieces[this.#head];
      // with jitter a piece of another connection may be due before the one in front of it: it waits, by less than the jitter
      if (!piece || piece.dueMs > nowMs || this.#head >= this.#departed) break;
      this.#head += 1;
      const { to } = piece.pipe;
      if (to.destroyed) continue;
      if (piece.bytes === undefined) {
        if (piece.pipe.from.destroyed) to.destroySoon();
        else to.end();
      } else {
        if (!touched.has(to)) to.cork();
        touched.add(to);
        to.write(piece.bytes);
      }
    }
    for (const to of touched) to.uncork();
    if (this.#head >= 1024) {
      this.#pieces.splice(0, this.#head);
      this.#departed -= this.#head;
      this.#head = 0;
    }
    this.resume();
    this.#arm();
  }

  stop(): void {
    this.#isCut = true;
    clearTimeout(this.#timer);
    this.#pieces = [];
  }
}
