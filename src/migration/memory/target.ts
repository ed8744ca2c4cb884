import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { sleep } from '../../base/async.ts';
import type { Lane } from '../../link/types.ts';
import type { ResidueRule } from '../../wire/qemu-stream/content.ts';
import { StreamDecoder } from '../../wire/qemu-stream/decoder.ts';
import { decodeStreamEnd, decodeStreamMessage, migrationFail, type StreamMessage } from '../messages.ts';
import { References } from './references.ts';
import { type ChannelResidue, ruleOf } from './residue.ts';

/** Messages of one channel that may wait for an earlier one on the other lane. */
export const MAX_REORDERED_MESSAGES = 4096;
export const MAX_REORDERED_BYTES = 96 * 1024 * 1024;
const CONNECT_TIMEOUT_MS = 10_000;

/** Frames of one channel that are taken before QEMU is there: what a fast link brings while it starts. */
export const EARLY_MAX_BYTES = 8 * 1024 * 1024;

export interface MemoryTargetOptions {
  /** Where the target's QEMU listens for the migration stream. */
  socketPath: string;
  /** There is a second channel, for pages that are waited for. */
  preempt: boolean;
  /** Takes ownership; called once, before the first byte that lets QEMU run the VM is fed to it. */
  onTakeover: () => Promise<void>;
  /** Bytes of QEMU's return path. */
  onReturn: (bytes: Buffer) => void;
  /** Where pages come from that frames refer to; without it frames may not. */
  references?: References;
  /** Pages that the main channel keeps to be repeated, as agreed with the source. Default: none. */
  repeatPages?: number;
  /** What is noted of the pages that come; the source notes the same. */
  residue?: ChannelResidue;
}

interface Waiting {
  readonly message: StreamMessage;
  /** The pages that the frame refers to, on their way from the disk; undefined if it refers to none. */
  readonly referenced: Promise<Buffer> | undefined;
  readonly fed: PromiseWithResolvers<void>;
}

interface Channel {
  /** Undefined until QEMU is there. */
  socket: Socket | undefined;
  readonly connected: PromiseWithResolvers<Socket>;
  decoder: StreamDecoder;
  next: number;
  /** Sequence number after the last message, once STREAM_END has said so. */
  end: number | undefined;
  waiting: Map<number, Waiting>;
  waitingBytes: number;
  feeding: Promise<void>;
}

/**
 * The target end of memory migration: puts the messages of both lanes back in order, decodes them and feeds QEMU,
 * which sees the very bytes that the source's QEMU wrote.
 */
export class MemoryTarget implements AsyncDisposable {
  readonly #options: MemoryTargetOptions;
  readonly #channels: readonly Channel[];
  readonly #failed = Promise.withResolvers<never>();
  readonly #references: References;
  #takeover: Promise<void> | undefined;
  #checkedFrames = 0;

  constructor(options: MemoryTargetOptions) {
    this.#options = options;
    this.#references = options.references ?? new References({ reader: undefined, send: () => {} });
    this.#failed.promise.catch(() => {});
    // only the main channel repeats pages
    const { repeatPages = 0, preempt, residue } = options;
    const main = makeChannel(repeatPages, ruleOf(residue, 0));
    this.#channels = preempt ? [main, makeChannel(0, ruleOf(residue, 1))] : [main];
  }

  /** Rejects when QEMU cannot be fed any further: it closed its socket, or a frame is damaged. Never resolves. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /** Frames whose decoded bytes matched their checksum. */
  get checkedFrames(): number {
    return this.#checkedFrames;
  }

  /** QEMU listens: connects its main channel, then the one for pages that are waited for. @throws MOVER_QEMU_TARGET */
  async connect(): Promise<void> {
    for (const [index, channel] of this.#channels.entries()) {
      const socket = await this.#open(index);
      channel.socket = socket;
      channel.connected.resolve(socket);
    }
  }

  /**
   * Takes a stream message. On the bulk lane the promise settles when QEMU has taken the bytes, which holds the
   * credit back; while QEMU still starts it is given for EARLY_MAX_BYTES at once. Urgent messages only queue, so that
   * nothing behind them waits for QEMU. What fails later than here is heard through `failed`, and the channel is fed
   * nothing more: QEMU never sees a stream with a hole.
   * @throws MOVER_PROTOCOL
   */
  handle(payload: Buffer, lane: Lane): void | Promise<void> {
    const message = decodeStreamMessage(payload);
    const channel = this.#channel(message.channel);
    const { sequence } = message;
    if (sequence < channel.next || channel.waiting.has(sequence)) {
      throw migrationFail('MOVER_PROTOCOL', 'stream message twice');
    }
    if (channel.end !== undefined && sequence >= channel.end) {
      throw migrationFail('MOVER_PROTOCOL', 'stream message behind the end');
    }
    channel.waitingBytes += message.frame.length;
    if (channel.waiting.size >= MAX_REORDERED_MESSAGES || channel.waitingBytes > MAX_REORDERED_BYTES) {
      throw migrationFail('MOVER_PROTOCOL', 'too many stream messages out of order');
    }
    const fed = Promise.withResolvers<void>();
    fed.promise.catch(() => {});
    channel.waiting.set(sequence, { message, referenced: this.#load(message), fed });
    this.#advance(channel);
    const early = !channel.socket && channel.waitingBytes <= EARLY_MAX_BYTES;
    return lane === 'bulk' && !early ? fed.promise : undefined;
  }

  /** Begins to load what the frame refers to. What is wrong with it is found out when its turn has come. */
  #load({ channel, sequence, frame }: StreamMessage): Promise<Buffer> | undefined {
    try {
      return this.#references.load(channel, sequence, frame);
    } catch (error) {
      const failed = Promise.reject(error);
      failed.catch(() => {});
      return failed;
    }
  }

  /** The source's QEMU has closed this channel after so many messages. @throws MOVER_PROTOCOL */
  handleEnd(payload: Buffer): void {
    const end = decodeStreamEnd(payload);
    const channel = this.#channel(end.channel);
    if (channel.end !== undefined) throw migrationFail('MOVER_PROTOCOL', 'stream end twice');
    const last = Math.max(channel.next - 1, ...channel.waiting.keys());
    if (end.messages <= last) throw migrationFail('MOVER_PROTOCOL', 'stream end before the last message');
    channel.end = end.messages;
    this.#advance(channel);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#references.close();
    for (const { socket, connected } of this.#channels) {
      connected.reject(migrationFail('MOVER_QEMU_TARGET', 'closed'));
      socket?.destroy();
    }
    await Promise.allSettled(this.#channels.map((channel) => channel.feeding));
  }

  #channel(index: number): Channel {
    const channel = this.#channels[index];
    if (!channel) throw migrationFail('MOVER_PROTOCOL', `no channel ${index}`);
    return channel;
  }

  async #open(index: number): Promise<Socket> {
    const deadline = performance.now() + CONNECT_TIMEOUT_MS;
    for (;;) {
      const socket = connect(this.#options.socketPath);
      try {
        await once(socket, 'connect');
        socket.on('error', () => {});
        socket.on('data', (bytes: Buffer) => {
          if (index === 0) this.#options.onReturn(bytes);
        });
        return socket;
      } catch (error) {
        socket.destroy();
        if (performance.now() > deadline)
          throw migrationFail('MOVER_QEMU_TARGET', 'no stream socket', { cause: error });
        await sleep(20);
      }
    }
  }

  #advance(channel: Channel): void {
    for (;;) {
      const entry = channel.waiting.get(channel.next);
      if (!entry) break;
      channel.waiting.delete(channel.next);
      channel.next += 1;
      const { fed } = entry;
      channel.feeding = channel.feeding.then(() => this.#feed(channel, entry));
      channel.feeding.then(fed.resolve, (error: unknown) => {
        this.#failed.reject(error);
        fed.reject(error);
      });
    }
    if (channel.end === channel.next) {
      channel.feeding = channel.feeding.then(() => {
        channel.socket?.end();
      });
      channel.feeding.catch(() => {});
    }
  }

  /** A damaged frame is found before ownership is taken for it. @throws STREAM_*, MOVER_QEMU_TARGET */
  async #feed(channel: Channel, { message, referenced: loading }: Waiting): Promise<void> {
    const socket = await channel.connected.promise;
    channel.waitingBytes -= message.frame.length;
    const referenced = await loading;
    const bytes = channel.decoder.push(message.frame, referenced);
    this.#checkedFrames += 1;
    if (referenced) this.#references.decoded(message.channel, message.sequence, referenced);
    if (!this.#takeover && !message.takeover) await this.#options.residue?.room?.();
    if (message.takeover) await (this.#takeover ??= this.#options.onTakeover());
    await new Promise<void>((resolve, reject) => {
      socket.write(bytes, (cause) => {
        if (cause) reject(migrationFail('MOVER_QEMU_TARGET', `stream: ${cause.message}`, { cause }));
        else resolve();
      });
    });
  }
}

function makeChannel(repeatPages: number, residue: ResidueRule | undefined): Channel {
  const connected = Promise.withResolvers<Socket>();
  connected.promise.catch(() => {});
  return {
    socket: undefined,
    connected,
    decoder: new StreamDecoder({
      repeatPages,
      // `#feed` has QEMU take a frame's bytes before it decodes the next
      reuseOutput: true,
      residue,
    }),
    next: 0,
    end: undefined,
    waiting: new Map(),
    waitingBytes: 0,
    feeding: Promise.resolve(),
  };
}
