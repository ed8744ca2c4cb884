import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { sleep } from '../../base/async.ts';
import type { Lane } from '../../link/types.ts';
import { StreamDecoder } from '../../wire/qemu-stream/decoder.ts';
import { decodeStreamMessage, migrationFail, type StreamMessage } from '../messages.ts';
import type { References } from './references.ts';

/** Messages of one channel that may wait for an earlier one on the other lane. */
export const MAX_REORDERED_MESSAGES = 4096;
export const MAX_REORDERED_BYTES = 96 * 1024 * 1024;
const CONNECT_TIMEOUT_MS = 10_000;

export interface MemoryTargetOptions {
  /** Where the target's QEMU listens for the migration stream. */
  socketPath: string;
  /** Takes ownership; called once, before the first byte that lets QEMU run the VM is fed to it. */
  onTakeover: () => Promise<void>;
  /** Bytes of QEMU's return path. */
  onReturn: (bytes: Buffer) => void;
  /** Where pages come from that frames refer to. */
  references: References;
  /** Pages that the main channel keeps to be repeated, as agreed with the source. */
  repeatPages: number;
}

interface Waiting {
  readonly message: StreamMessage;
  /** The pages that the frame refers to, on their way from the disk; undefined if it refers to none. */
  readonly referenced: Promise<Buffer> | undefined;
  readonly fed: PromiseWithResolvers<void>;
}

interface Channel {
  socket: Socket;
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
  readonly #channels: Channel[] = [];
  #takeover: Promise<void> | undefined;
  #checkedFrames = 0;

  constructor(options: MemoryTargetOptions) {
    this.#options = options;
  }

  /** Frames whose decoded bytes matched their checksum. */
  get checkedFrames(): number {
    return this.#checkedFrames;
  }

  /** Connects QEMU's main channel and, with `preempt`, the one for pages that are waited for. */
  async connect(preempt: boolean): Promise<void> {
    await this.#open('main');
    if (preempt) await this.#open('ram');
  }

  /**
   * Takes a stream message. On the bulk lane the promise settles when QEMU has taken the bytes, which holds the
   * credit back; urgent messages only queue, so that nothing behind them waits for QEMU.
   * @throws MOVER_PROTOCOL, STREAM_*
   */
  handle(payload: Buffer, lane: Lane): void | Promise<void> {
    const message = decodeStreamMessage(payload);
    const channel = this.#channel(message.channel);
    if (message.sequence < channel.next || channel.waiting.has(message.sequence)) {
      throw migrationFail('MOVER_PROTOCOL', 'stream message twice');
    }
    channel.waitingBytes += payload.length;
    if (channel.waiting.size >= MAX_REORDERED_MESSAGES || channel.waitingBytes > MAX_REORDERED_BYTES) {
      throw migrationFail('MOVER_PROTOCOL', 'too many stream messages out of order');
    }
    const fed = Promise.withResolvers<void>();
    const referenced = this.#options.references.load(message.channel, message.sequence, message.frame);
    channel.waiting.set(message.sequence, { message, referenced, fed });
    this.#advance(channel);
    if (lane === 'bulk') return fed.promise;
    fed.promise.catch(() => {});
    return undefined;
  }

  /** The source's QEMU has closed this channel after so many messages. */
  handleEnd(payload: Buffer): void {
    if (payload.length !== 8) throw migrationFail('MOVER_PROTOCOL', 'stream end');
    const channel = this.#channel(payload.readUInt8(0));
    channel.end = payload.readUInt32BE(4);
    this.#advance(channel);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const channel of this.#channels) channel.socket.destroy();
    await Promise.allSettled(this.#channels.map((channel) => channel.feeding));
  }

  #channel(index: number): Channel {
    const channel = this.#channels[index];
    if (!channel) throw migrationFail('MOVER_PROTOCOL', `no channel ${index}`);
    return channel;
  }

  async #open(mode: 'main' | 'ram'): Promise<void> {
    const deadline = performance.now() + CONNECT_TIMEOUT_MS;
    for (;;) {
      const socket = connect(this.#options.socketPath);
      try {
        await once(socket, 'connect');
        socket.on('error', () => {});
        socket.on('data', (bytes: Buffer) => {
          if (mode === 'main') this.#options.onReturn(bytes);
        });
        this.#channels.push({
          socket,
          decoder: new StreamDecoder({ repeatPages: mode === 'main' ? this.#options.repeatPages : 0 }),
          next: 0,
          end: undefined,
          waiting: new Map(),
          waitingBytes: 0,
          feeding: Promise.resolve(),
        });
        return;
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
      channel.feeding = channel.feeding.then(() => this.#feed(channel, entry)).then(fed.resolve, fed.reject);
    }
    if (channel.end === channel.next) {
      channel.feeding = channel.feeding.then(() => {
        channel.socket.end();
      });
    }
  }

  async #feed(channel: Channel, { message, referenced: loading }: Waiting): Promise<void> {
    channel.waitingBytes -= message.frame.length;
    if (message.takeover) await (this.#takeover ??= this.#options.onTakeover());
    const referenced = await loading;
    const bytes = channel.decoder.push(message.frame, referenced);
    this.#checkedFrames += 1;
    if (referenced) this.#options.references.decoded(message.channel, message.sequence, referenced);
    await new Promise<void>((resolve, reject) => {
      channel.socket.write(bytes, (error) => (error ? reject(error) : resolve()));
    });
  }
}
