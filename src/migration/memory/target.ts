import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { sleep } from '../../base/async.ts';
import type { Lane } from '../../link/types.ts';
import type { ResidueRule } from '../../wire/qemu-stream/content.ts';
import { StreamDecoder } from '../../wire/qemu-stream/decoder.ts';
import { Holding } from '../../wire/qemu-stream/holding.ts';
import type { Referenced } from '../../wire/qemu-stream/memory.ts';
import { decodeStreamEnd, decodeStreamMessage, migrationFail, type StreamMessage } from '../messages.ts';
import { References } from './references.ts';
import { Placer, type PlacerOptions } from './placer.ts';
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
  /**
   * Pages of round one that are zero, or that the target has in files, are held back until the VM runs, or QEMU asks for them:
   * up to the switch QEMU gets only what is new. The reader gives those of files.
   */
  hold?: { readonly reader: PlacerOptions['reader'] };
  /** Pages that the main channel keeps to be repeated, as agreed with the source. Default: none. */
  repeatPages?: number;
  /** What is noted of the pages that come; the source notes the same. */
  residue?: ChannelResidue;
}

interface Waiting {
  readonly message: StreamMessage;
  /** The pages that the frame refers to, on their way from the disk; undefined if it refers to none. */
  readonly referenced: Promise<Referenced> | undefined;
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
  /** Of the channel that holds pages back. */
  readonly holding: Holding | undefined;
  /** Of what QEMU was given so far. */
  boundary: Holding['boundary'];
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
  readonly #placer: Placer | undefined;

  constructor(options: MemoryTargetOptions) {
    this.#options = options;
    this.#references = options.references ?? new References({ reader: undefined, send: () => {} });
    this.#failed.promise.catch(() => {});
    // only the main channel repeats pages
    const { repeatPages = 0, preempt, residue, hold } = options;
    const main = makeChannel(repeatPages, ruleOf(residue, 0), hold ? new Holding() : undefined);
    this.#channels = preempt ? [main, makeChannel(0, ruleOf(residue, 1), undefined)] : [main];
    if (hold && main.holding) {
      this.#placer = new Placer({
        holding: main.holding,
        reader: hold.reader,
        socket: () => main.socket,
        boundary: () => main.boundary,
        onRequest: (bytes) => options.onReturn(bytes),
        onError: (error) => this.#failed.reject(error),
      });
    }
  }

  /** Rejects when QEMU cannot be fed any further: it closed its socket, or a frame is damaged. Never resolves. */
  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  /** Frames whose decoded bytes matched their checksum. */
  get checkedFrames(): number {
    return this.#checkedFrames;
  }

  /** Pages that were held back, and those of them that QEMU was given because it asked. */
  get held(): { pages: number; placedOnRequest: number } {
    const pages = this.#channels[0]?.holding?.held.held ?? 0;
    return { pages, placedOnRequest: this.#placer?.placedOnRequest ?? 0 };
  }

  /** The VM runs here: QEMU is given what was held back. */
  resumed(): void {
    this.#placer?.start();
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
  #load({ channel, sequence, frame }: StreamMessage): Promise<Referenced> | undefined {
    try {
      const hold = channel === 0 && this.#placer !== undefined && !this.#takeover;
      return this.#references.load(channel, sequence, frame, hold);
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
    this.#placer?.close();
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
          if (index !== 0) return;
          if (this.#placer) this.#answer(this.#placer, bytes);
          else this.#options.onReturn(bytes);
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

  #answer(placer: Placer, bytes: Buffer): void {
    try {
      placer.handleReturn(bytes);
    } catch (error) {
      this.#failed.reject(error);
    }
  }

  /** A damaged frame is found before ownership is taken for it. @throws STREAM_*, MOVER_QEMU_TARGET, MOVER_CONTENT_LOST */
  async #feed(channel: Channel, { message, referenced: loading }: Waiting): Promise<void> {
    const socket = await channel.connected.promise;
    channel.waitingBytes -= message.frame.length;
    const loaded = await loading;
    const { decoder, holding } = channel;
    const referenced =
      loaded && (await this.#references.complete(message, loaded, decoder.unheld(message.frame)));
    if (!this.#takeover && !message.takeover) await this.#options.residue?.room?.();
    // From here to the write nothing is waited for in a frame of memory: what is placed in between would change the
    // block that QEMU takes for the last one.
    const bytes = decoder.push(message.frame, referenced);
    this.#checkedFrames += 1;
    if (referenced) this.#references.decoded(message.channel, message.sequence, referenced);
    if (message.takeover) {
      await (this.#takeover ??= this.#options.onTakeover());
      holding?.held.close();
      this.#placer?.activate();
    }
    if (holding?.ended) await this.#placeRest(channel);
    const prologue = holding?.prologue();
    if (prologue) socket.write(prologue);
    const written = new Promise<void>((resolve, reject) => {
      socket.write(bytes, (cause) => {
        if (cause) reject(migrationFail('MOVER_QEMU_TARGET', `stream: ${cause.message}`, { cause }));
        else resolve();
      });
    });
    channel.boundary = holding?.boundary;
    this.#placer?.wake();
    await written;
  }

  /** What comes next ends QEMU's memory: up to here it must have all that is held back. */
  async #placeRest(channel: Channel): Promise<void> {
    channel.boundary ??= 'sections';
    this.#placer?.activate();
    this.#placer?.wake();
    await this.#placer?.finish();
  }
}

function makeChannel(
  repeatPages: number,
  residue: ResidueRule | undefined,
  holding: Holding | undefined,
): Channel {
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
      holding,
    }),
    next: 0,
    end: undefined,
    waiting: new Map(),
    waitingBytes: 0,
    feeding: Promise.resolve(),
    holding,
    boundary: undefined,
  };
}
