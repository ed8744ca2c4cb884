import { chmod, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { abortable, sleep } from '../../base/async.ts';
import type { LinkSession } from '../../link/types.ts';
import type { CodecName } from '../../wire/codec.ts';
import type { EncodedFrame } from '../../wire/qemu-stream/batch.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { StreamEncoder, type StreamStats } from '../../wire/qemu-stream/encoder.ts';
import { Continuity } from '../../wire/qemu-stream/continuity.ts';
import type { ContentLookup } from '../../wire/qemu-stream/content.ts';
import {
  encodePageRequest,
  encodeShut,
  ReturnPathParser,
  type ReturnMessage,
} from '../../wire/qemu-stream/returnPath.ts';
import {
  decodeContentMissing,
  decodeDecoded,
  encodeStreamEnd,
  encodeStreamMessage,
  MESSAGE_CONTENT_BYTES,
  MESSAGE_STREAM,
  MESSAGE_STREAM_END,
  migrationFail,
} from '../messages.ts';
import type { Pace } from '../pace.ts';
import { Chunks } from './chunks.ts';
import { type CodecLevels, Packing } from './packing.ts';
import { type ChannelResidue, ruleOf } from './residue.ts';
import { RetainedContent } from './retained.ts';
import { StreamTail } from './stream-tail.ts';

/** A partial batch waits this long for more pages while QEMU has nothing to say. */
const FLUSH_DELAY_MS = 3;
/** Background pages that may be read from QEMU and held back while the switch is under way. */
const HELD_BACK_BYTES = 1024 * 1024;
/** They are let go after this long in any case. */
const HELD_BACK_MS = 500;
/** When the target has asked for so many pages that it should have had, its content is not referred to any more. */
const MISSING_MAX_PAGES = 64;
const CONNECT_POLL_MS = 5;
/** Pages around one that the target waits for that are sent along: what a guest touches next is often beside it. */
const NEIGHBOUR_BYTES = 8 * PAGE_BYTES;
/** QEMU counts as throttled when it has written nothing for this long. */
const QUIET_MS = 8;

export interface MemorySourceOptions {
  /** Unix socket that the source's QEMU is told to migrate to. */
  socketPath: string;
  session: LinkSession;
  codec: CodecName;
  /** Fixes the level of zstd for round one; without it the level follows the link and the CPU. */
  zstdLevel?: number | undefined;
  /**
   * The VM is stopped and its images are inactive: offers ownership and sends the disk's metadata ahead.
   * The message that lets the target run the VM leaves only after this has resolved. With `completed` QEMU has written
   * its whole stream by itself, as pre-copy, and has been told that it arrived: it must reach `completed` first, or it
   * would start the VM here again when its connection breaks.
   */
  onTakeover: (completed: boolean) => Promise<void>;
  /** QEMU leaves names of blocks out wrongly, see Continuity: they are put in. */
  repairNames?: boolean | undefined;
  /** How fast what nobody waits for may go once the VM runs at the target. */
  pace?: Pace | undefined;
}

export interface MemorySourceStats {
  encoder: StreamStats;
  /** Bytes of stream messages by kind, headers included. */
  bytes: { memory: number; device: number };
  /** Data and zero pages sent since the takeover. */
  pagesPostCopied: number;
  /** Pages of both channels: all zero, and those that travelled as bytes. */
  pagesZero: number;
  pagesSent: number;
  /** Pages that travelled as a reference to the target's content, and as a repeat of a page sent before. */
  pagesReferenced: number;
  pagesDuplicate: number;
  /** Of the references: those to residue. */
  pagesFromResidue: number;
  /** Of the references: those that the target asked to be sent after all. */
  pagesResent: number;
  /** Pages that the target's QEMU asked for. */
  pagesFaulted: number;
  /** QEMU finished as pre-copy by itself. */
  completedAsPrecopy: boolean;
  /** Levels of zstd that round one used; undefined where it did not pack anything. */
  codecLevels: CodecLevels | undefined;
}

/** One of QEMU's channels: frames leave in order, through one chain of sends. */
interface Channel {
  readonly index: 0 | 1;
  readonly encoder: StreamEncoder;
  readonly retained: RetainedContent;
  sending: Promise<void>;
  /** Frames that `sending` waits for. */
  ahead: number;
  /** Lets the pump go on without waiting for `sending`. */
  wake: (() => void) | undefined;
  sequence: number;
  socket: Socket | undefined;
  chunks: Chunks | undefined;
}

/**
 * The source end of memory migration: stands where QEMU believes the target to be, encodes its stream and sends it.
 * Round one goes on the bulk lane. From `beginSwitch()` until the takeover everything is urgent, so that nothing
 * stands in front of the device state; afterwards background pages are bulk again, and the pages that the target
 * waits for (QEMU's preempt channel) are urgent.
 */
export class MemorySource implements AsyncDisposable {
  readonly #options: MemorySourceOptions;
  readonly #server: Server;
  readonly #channels: [Channel, Channel];
  readonly #returnPath = new ReturnPathParser();
  readonly #held: EncodedFrame[] = [];
  readonly #bytes = { memory: 0, device: 0 };
  readonly #pumps: Promise<void>[] = [];
  #residue: ChannelResidue | undefined;
  readonly #continuity: Continuity | undefined;
  readonly #switching = Promise.withResolvers<void>();
  /** For round one; undefined where the codec has nothing to pack. */
  readonly #packing: Packing | undefined;
  readonly #finished = Promise.withResolvers<void>();
  #phase: 'precopy' | 'switching' | 'postcopy' = 'precopy';
  #takeover: Promise<void> | undefined;
  /** What lets the target run the VM: still here, on its way, or never to leave. */
  #handover: 'kept' | 'sent' | 'abandoned' = 'kept';
  /** The next device frame is the package that ends in RUN. */
  #packageNext = false;
  /** Set when QEMU completes as pre-copy, by itself. */
  #tail: StreamTail | undefined;
  #pagesAtTakeover = 0;
  #pagesResent = 0;
  /** Since when QEMU has been listened to in vain; undefined while what it wrote last is dealt with. */
  #listeningSinceMs: number | undefined = 0;
  #flushTimer: NodeJS.Timeout | undefined;
  #heldBack: PromiseWithResolvers<void> | undefined;
  #heldBackBytes = 0;
  /** Of the last request on the return path, which the next one need not repeat. */
  #requestedBlock: string | undefined;
  /** QEMU is read, and nothing is done with it. */
  #discarding = false;
  /** Post-copy: the last byte of the main channel has been read. */
  #written = false;
  readonly #discard = Promise.withResolvers<void>();

  constructor(options: MemorySourceOptions) {
    this.#options = options;
    this.#finished.promise.catch(() => {});
    if (options.codec === 'zstd') {
      this.#packing = new Packing({
        zstdLevel: options.zstdLevel,
        rateMbit: () => options.session.stats().rateMbit,
        apply: (zstdLevel) => this.#channels[0].encoder.tune(zstdLevel),
      });
    }
    this.#continuity = options.repairNames ? new Continuity() : undefined;
    this.#channels = [this.#makeChannel(0), this.#makeChannel(1)];
    this.#server = createServer({ highWaterMark: 256 * 1024 }, (socket) => this.#accept(socket));
  }

  /** Resolves when QEMU has closed its main channel and all of it was handed to the link. */
  get finished(): Promise<void> {
    return this.#finished.promise;
  }

  /** Resolves when QEMU has opened this many channels. */
  async connected(channels: number, signal: AbortSignal): Promise<void> {
    while (this.#channels.filter(({ socket }) => socket).length < channels)
      await sleep(CONNECT_POLL_MS, signal);
  }

  async listen(): Promise<void> {
    await rm(this.#options.socketPath, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen(this.#options.socketPath, resolve);
    });
    await chmod(this.#options.socketPath, 0o600);
  }

  /**
   * From here on frames are urgent; call it when the pipe is empty.
   */
  beginSwitch(): void {
    if (this.#phase !== 'precopy') return;
    this.#phase = 'switching';
    this.#switching.resolve();
    this.#packing?.hurry();
  }

  /**
   * Asks QEMU for pages (offsets in RAM) in the target's name: in post-copy they follow the device state at once. A
   * QEMU that is throttled wakes at the first request (migration_make_urgent_request), so there is always one.
   */
  requestPages(offsets: readonly number[]): void {
    const { encoder, socket } = this.#channels[0];
    // QEMU lists its blocks by size; the first is the VM's memory
    const [ram] = encoder.stats().blocks;
    if (!ram || !socket?.writable) return;
    for (const offset of offsets.length === 0 ? [0] : offsets) {
      if (offset + PAGE_BYTES <= ram.lengthBytes)
        socket.write(encodePageRequest(ram.name, offset, PAGE_BYTES));
    }
  }

  /** Resolves when QEMU has gone quiet and all it wrote has been handled at the target. */
  async drained(signal?: AbortSignal): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      const since = this.#listeningSinceMs;
      const quietForMs = since === undefined ? 0 : performance.now() - since;
      if (quietForMs >= QUIET_MS) break;
      await sleep(QUIET_MS - quietForMs + 1, signal);
    }
    this.#channels[0].encoder.flush();
    await abortable(this.#channels[0].sending, signal);
    await this.#options.session.drained('bulk', signal);
    await this.#options.session.drained('urgent', signal);
  }

  /**
   * Before QEMU connects: pages that the target has are referred to, and on the main channel pages that were sent before
   * are repeated. The other channel carries single pages that are waited for: there it is not worth the memory. What
   * travels is noted as `residue` says.
   */
  useContent(content: ContentLookup | undefined, repeatPages: number, residue?: ChannelResidue): void {
    this.#residue = residue;
    for (const { index, encoder } of this.#channels)
      encoder.useContent(content, index === 0 ? repeatPages : 0, ruleOf(residue, index));
  }

  /** The target lacks content that frames referred to: it gets the bytes. @throws MOVER_PROTOCOL */
  handleMissing(payload: Buffer): void {
    const missing = decodeContentMissing(payload);
    const answer = this.#channels[missing.channel].retained.answer(missing);
    this.#pagesResent += missing.positions.length;
    if (this.#pagesResent >= MISSING_MAX_PAGES)
      for (const { encoder } of this.#channels) encoder.dropContent();
    this.#options.session.send('urgent', MESSAGE_CONTENT_BYTES, answer).catch(() => {});
  }

  /** The target has decoded frames with references. @throws MOVER_PROTOCOL */
  handleDecoded(payload: Buffer): void {
    const { channel, sequence } = decodeDecoded(payload);
    this.#channels[channel].retained.release(sequence);
  }

  /** Bytes of the target's return path, for the source's QEMU. */
  handleReturn(payload: Buffer): void {
    const requests = this.#returnPath.push(payload).filter((message) => message.kind === 'request-pages');
    const { socket } = this.#channels[0];
    if (socket?.writable) socket.write(payload);
    if (requests.length === 0) return;
    // whatever the target waits for may stand behind what is held back
    this.resumeBackground();
    for (const request of requests) this.#requestNeighbours(request);
    this.#channels[0].chunks?.readOn();
    this.#options.pace?.asked();
  }

  #requestNeighbours({ block: named, startByte }: Extract<ReturnMessage, { kind: 'request-pages' }>): void {
    const block = named ?? this.#requestedBlock;
    this.#requestedBlock = block;
    const { socket, encoder } = this.#channels[0];
    const lengthBytes = encoder.stats().blocks.find(({ name }) => name === block)?.lengthBytes ?? 0;
    const start = Number(startByte) - (Number(startByte) % NEIGHBOUR_BYTES);
    const end = Math.min(start + NEIGHBOUR_BYTES, lengthBytes);
    if (block !== undefined && end > start && socket?.writable)
      socket.write(encodePageRequest(block, start, end - start));
  }

  /**
   * Gives the hand-over up: nothing leaves any more that would let the target run the VM. False if that has left
   * already; then only the target knows.
   */
  abandon(): boolean {
    if (this.#handover === 'sent') return false;
    this.#handover = 'abandoned';
    this.resumeBackground();
    return true;
  }

  /**
   * Ends QEMU's post-copy in order, without a target: what is left goes into the void, and at its end QEMU hears that
   * it has arrived. Cancelling instead, closing the socket or saying so earlier (QEMU then closes it itself) leaves
   * QEMU 7.2 in postcopy-paused, or ends it in an assertion (yank_unregister_instance).
   */
  discardRest(): void {
    this.abandon();
    this.#discarding = true;
    this.#discard.resolve();
    this.#options.pace?.end();
    for (const channel of this.#channels) channel.wake?.();
    if (this.#written) this.#sayArrived();
  }

  #sayArrived(): void {
    const { socket } = this.#channels[0];
    if (socket?.writable) socket.write(encodeShut(0));
  }

  /** The VM runs at the target: what is left may come as fast as the link takes it. */
  resumeBackground(): void {
    this.#heldBack?.resolve();
    this.#heldBack = undefined;
  }

  stats(): MemorySourceStats {
    return {
      encoder: this.#channels[0].encoder.stats(),
      bytes: { ...this.#bytes },
      pagesPostCopied: this.#takeover ? this.#pagesSoFar() - this.#pagesAtTakeover : 0,
      pagesZero: this.#sum(({ pagesZero }) => pagesZero),
      pagesSent: this.#sum((stats) => stats.pagesData - stats.pagesReferenced - stats.pagesDuplicate),
      pagesReferenced: this.#sum(({ pagesReferenced }) => pagesReferenced),
      pagesDuplicate: this.#sum(({ pagesDuplicate }) => pagesDuplicate),
      pagesFromResidue: this.#sum(({ pagesFromResidue }) => pagesFromResidue),
      pagesResent: this.#pagesResent,
      pagesFaulted: this.#returnPath.stats().pagesRequested,
      completedAsPrecopy: this.#tail !== undefined,
      codecLevels: this.#packing?.levels,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#flushTimer);
    this.#discarding = true;
    this.#discard.resolve();
    this.resumeBackground();
    this.#options.pace?.end();
    for (const { socket, wake, retained } of this.#channels) {
      wake?.();
      retained.close();
      socket?.destroy();
    }
    await new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    await Promise.allSettled(this.#pumps);
    await rm(this.#options.socketPath, { force: true });
  }

  #makeChannel(index: 0 | 1): Channel {
    const channel: Channel = {
      index,
      encoder: new StreamEncoder(
        {
          mode: index === 0 ? 'main' : 'ram',
          codec: this.#options.codec,
          continuity: this.#continuity,
          ...(index === 0 ? { zstdLevel: this.#options.zstdLevel } : {}),
          background: {
            // what is waited for is not sent through another thread
            packer: () => (index === 0 && this.#phase === 'precopy' ? this.#packing?.pack : undefined),
            emit: (frame) => this.#enqueueLater(channel, frame),
          },
          onPackagedStart: () => {
            if (this.#discarding) return;
            this.#packageNext = true;
            this.#startTakeover(false);
          },
          onRest: (reason, detail) => {
            if (reason === 'unknown') throw migrationFail('MOVER_QEMU_SOURCE', `unknown stream: ${detail}`);
            if (reason === 'devices') this.#tail = new StreamTail();
            if (reason === 'eof') this.#written = true;
            if (reason === 'eof' && this.#discarding) this.#sayArrived();
          },
        },
        (frame) => this.#enqueue(channel, frame),
      ),
      retained: new RetainedContent(),
      sending: Promise.resolve(),
      ahead: 0,
      wake: undefined,
      sequence: 0,
      socket: undefined,
      chunks: undefined,
    };
    return channel;
  }

  #accept(socket: Socket): void {
    // QEMU opens its main channel first, then the one for preemption.
    const channel = this.#channels.find((candidate) => !candidate.socket);
    if (!channel) {
      socket.destroy();
      return;
    }
    channel.socket = socket;
    channel.chunks = new Chunks(socket);
    const pump = this.#pump(channel, channel.chunks);
    this.#pumps.push(pump);
    pump.then(
      () => channel.index === 0 && this.#finished.resolve(),
      (error: unknown) => this.#finished.reject(error),
    );
  }

  /**
   * Reads a channel to its end. After a failure it only holds the socket open: closing it would bring QEMU into a state
   * that is hard to leave, see discardRest.
   */
  async #pump(channel: Channel, chunks: Chunks): Promise<void> {
    const { index } = channel;
    try {
      for await (const chunk of chunks) {
        try {
          if (index === 0 && this.#phase !== 'precopy' && this.#continuity) await this.#urgentFirst();
          if (this.#discarding) channel.encoder.push(chunk);
          else await this.#take(channel, chunk);
          if (index === 0 && chunks.isEmpty) this.#listeningSinceMs = performance.now();
        } catch (error) {
          this.#finished.reject(error);
          await this.#discard.promise;
        }
      }
    } catch (cause) {
      // what the loop's body throws has been dealt with: this is the socket
      throw migrationFail('MOVER_QEMU_SOURCE', `stream: ${(cause as Error).message}`, { cause });
    } finally {
      clearTimeout(this.#flushTimer);
    }
    if (this.#discarding) return;
    // A part must not pass for the whole: the target's QEMU waits for what is missing, but ends when its channel does.
    if (index === 0 && !this.#written && !(this.#tail && this.#takeover)) {
      throw migrationFail('MOVER_QEMU_SOURCE', 'its stream breaks off');
    }
    channel.encoder.end();
    await channel.sending;
    await this.#options.session.send('urgent', MESSAGE_STREAM_END, encodeStreamEnd(index, channel.sequence));
  }

  /**
   * What QEMU has written on its second channel before what was read here last is dealt with: it stands in that socket by
   * now, and two turns of the event loop read it.
   */
  async #urgentFirst(): Promise<void> {
    const { chunks } = this.#channels[1];
    if (!chunks) return;
    for (;;) {
      for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
      if (chunks.isEmpty || this.#discarding) return;
      await sleep(1);
    }
  }

  async #take(channel: Channel, chunk: Buffer): Promise<void> {
    const { encoder, index } = channel;
    if (index === 0) {
      this.#listeningSinceMs = undefined;
      clearTimeout(this.#flushTimer);
    }
    encoder.push(chunk);
    if (index === 0 && this.#tail) {
      encoder.flush();
      if (this.#tail.push(chunk)) this.#releaseTail(channel);
    } else if (index === 1 || this.#phase !== 'precopy') encoder.flush();
    if (this.#heldBack && index === 0) {
      // with the second channel nothing of this one is waited for, and packing it would take the switch's processors
      if (this.#handover === 'sent' && this.#channels[1].socket) return this.#heldBack.promise;
      this.#heldBackBytes += chunk.length;
      // reading on lets QEMU come to the pages that are asked for
      if (this.#heldBackBytes < HELD_BACK_BYTES) return;
    }
    if (this.#phase === 'precopy') await this.#noted();
    await this.#room(channel);
    // without the second channel what is asked for comes on this one
    if (index === 0 && this.#phase === 'postcopy' && this.#channels[1].socket)
      await this.#options.pace?.room(chunk.length);
    // while there is no room a batch may as well grow
    if (index === 0 && this.#phase === 'precopy' && !this.#tail)
      this.#flushTimer = setTimeout(() => encoder.flush(), FLUSH_DELAY_MS);
  }

  /** Round one may be held up until there is room for more to be noted, the switch may not. */
  async #noted(): Promise<void> {
    const room = this.#residue?.room?.();
    if (room) await Promise.race([room, this.#switching.promise]);
  }

  /** Resolves when the channel may take in more: with all sent, or in round one with few enough frames on their way. */
  async #room(channel: Channel): Promise<void> {
    if (channel.ahead <= this.#mayBeAhead(channel)) return;
    await new Promise<void>((resolve, reject) => {
      channel.wake = resolve;
      channel.sending.then(resolve, reject);
    });
  }

  #mayBeAhead(channel: Channel): number {
    const isRoundOne = channel.index === 0 && this.#phase === 'precopy' && !this.#tail;
    return isRoundOne ? (this.#packing?.framesAhead ?? 0) : 0;
  }

  /** Called inside `push`, before the frame with the package: the images are inactive from now on. */
  #startTakeover(completed: boolean): void {
    this.#pagesAtTakeover = this.#pagesSoFar();
    this.#takeover = this.#options.onTakeover(completed);
    this.#takeover.catch((error: unknown) => this.#finished.reject(error));
  }

  /**
   * QEMU completed as pre-copy, by itself: its device state stands in no frame of known length, and the images become
   * inactive only just before its last bytes. So it was held back, and goes now that its end has been seen. QEMU waits
   * for the target's word that all has arrived, and would start the VM again if its connection broke before
   * (migration_completion, migration_iteration_finish): while the target may be running it already. So it gets
   * that word from us before anything leaves, and cannot start the VM any more unless it is told to.
   */
  #releaseTail(channel: Channel): void {
    this.beginSwitch();
    this.#sayArrived();
    this.#startTakeover(true);
    for (const frame of this.#held.splice(0)) this.#push(channel, frame, true);
  }

  #enqueue(channel: Channel, frame: EncodedFrame): void {
    if (this.#discarding) return;
    const packaged = this.#packageNext && channel.index === 0 && frame.kind === 'device';
    if (packaged) this.#packageNext = false;
    if (channel.index === 0 && this.#tail && !this.#takeover) this.#held.push(frame);
    else this.#push(channel, frame, packaged);
  }

  /** A frame of round one that is being packed: it holds no more than pages. */
  #enqueueLater(channel: Channel, frame: Promise<EncodedFrame>): void {
    // heard of when its turn has come
    frame.catch(() => {});
    if (!this.#discarding) this.#push(channel, frame, false);
  }

  #push(channel: Channel, frame: EncodedFrame | Promise<EncodedFrame>, takeover: boolean): void {
    channel.ahead += 1;
    channel.sending = channel.sending.then(async () => {
      const turnAtMs = performance.now();
      const packed = await frame;
      const packWaitMs = performance.now() - turnAtMs;
      const linkWaitMs = await this.#send(channel, packed, takeover);
      if (this.#phase === 'precopy') this.#packing?.sent(packed, packWaitMs, linkWaitMs);
      channel.ahead -= 1;
      if (channel.ahead === this.#mayBeAhead(channel)) channel.wake?.();
    });
    channel.sending.catch((error: unknown) => this.#finished.reject(error));
  }

  /** Returns how long the link had no room for more, in ms. */
  async #send(channel: Channel, frame: EncodedFrame, takeover: boolean): Promise<number> {
    if (takeover) await this.#takeover;
    else if (channel.index === 0) await this.#heldBack?.promise;
    if (this.#handover === 'abandoned')
      throw migrationFail('MOVER_CANCELLED', 'before the VM was handed over');
    if (takeover) this.#handover = 'sent';
    if (channel.sequence > 0xffff_fff0) throw migrationFail('MOVER_PROTOCOL', 'too many stream messages');
    const { index, sequence } = channel;
    channel.sequence += 1;
    const payload = encodeStreamMessage({ channel: index, takeover, sequence, frame: frame.payload });
    this.#bytes[frame.kind] += payload.length;
    if (frame.referenced) await channel.retained.add(sequence, frame.referenced, frame.recycle);
    const urgent = index === 1 || this.#phase === 'switching';
    if (takeover && !this.#tail) this.#enterPostcopy();
    const sentAtMs = performance.now();
    await this.#options.session.send(urgent ? 'urgent' : 'bulk', MESSAGE_STREAM, payload);
    return performance.now() - sentAtMs;
  }

  /**
   * Background pages wait until the VM runs at the target: link and hosts belong to the switch. QEMU's own limit
   * (max-postcopy-bandwidth) does not serve, it also holds back pages that are asked for (qemu_savevm_state_iterate).
   */
  #enterPostcopy(): void {
    this.#phase = 'postcopy';
    this.#heldBack = Promise.withResolvers<void>();
    setTimeout(() => this.resumeBackground(), HELD_BACK_MS).unref();
  }

  #pagesSoFar(): number {
    return this.#sum(({ pagesData, pagesZero }) => pagesData + pagesZero);
  }

  #sum(count: (stats: StreamStats) => number): number {
    return this.#channels.reduce((sum, { encoder }) => sum + count(encoder.stats()), 0);
  }
}
