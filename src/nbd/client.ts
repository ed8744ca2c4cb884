import { withTimeout } from '../base/async.ts';
import { PlainAssembly, ReadAssembly, StatusAssembly } from '../wire/nbd/assembly.ts';
import { COMMAND, COMMAND_FLAG, NBD_MAX_REQUEST_BYTES, TRANSMISSION } from '../wire/nbd/constants.ts';
import { encodeRequest } from '../wire/nbd/encode.ts';
import type { NbdExtent } from '../wire/nbd/frames.ts';
import type { ClientConnection } from './client-connection.ts';
import type { NbdTerms } from './client-handshake.ts';
import { NBD_CLIENT_MAX_EXTENTS, NBD_DISCONNECT_TIMEOUT_MS, NBD_MAX_RANGE_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import { type Order, type QueueLimits, RequestQueue } from './request-queue.ts';

export interface NbdCallOptions {
  /** Ends the wait. What is on the wire is carried out all the same. */
  readonly signal?: AbortSignal;
}

export interface NbdWriteOptions extends NbdCallOptions {
  /** Answer only when the change is on stable storage. */
  readonly fua?: boolean;
}

/**
 * One session with an export; many calls may be under way. A call rejects with NBD_REQUEST_FAILED when the server
 * answers with an error, and with the true cause when the connection ends before its answer: NBD_CONNECTION_LOST,
 * the rule that the server broke (NBD_BAD_FRAME, NBD_BAD_MAGIC, NBD_TOO_LARGE), or NBD_CLOSED. NBD_RANGE and
 * NBD_UNSUPPORTED are found before anything is sent. `await using` disconnects in order.
 */
export class NbdClient implements AsyncDisposable {
  readonly export: NbdTerms;
  /** Resolves when this side ended the session, rejects with the cause when it was lost. */
  readonly closed: Promise<void>;
  readonly #connection: ClientConnection;
  readonly #queue: RequestQueue;
  #closing: Error | undefined;

  constructor(connection: ClientConnection, terms: NbdTerms, limits: QueueLimits) {
    this.export = terms;
    this.#connection = connection;
    const queue = new RequestQueue(connection.writer, limits);
    this.#queue = queue;
    this.closed = new Promise((resolve, reject) => {
      connection.handOver({
        simplePayloadBytes: (cookie, error) => queue.simplePayloadBytes(cookie, error),
        admitChunk: (header) => queue.admitChunk(header),
        onReply: (frame) => queue.onReply(frame),
        onEnd: (cause) => {
          queue.end(this.#closing ?? cause);
          if (this.#closing === undefined) reject(cause);
          else resolve();
        },
      });
    });
    // whoever does not look at it learns of the end by the next call
    this.closed.catch(() => {});
  }

  get readOnly(): boolean {
    return this.#offers(TRANSMISSION.READ_ONLY);
  }

  get canFlush(): boolean {
    return this.#offers(TRANSMISSION.SEND_FLUSH);
  }

  get canMultiConn(): boolean {
    return this.#offers(TRANSMISSION.CAN_MULTI_CONN);
  }

  /** The most that one `read` or `write` takes, bytes. */
  get maxRequestBytes(): number {
    return Math.min(NBD_MAX_REQUEST_BYTES, this.export.blockSizes.maximumBytes);
  }

  /** Calls that have no answer yet. */
  get pendingCalls(): number {
    return this.#queue.size;
  }

  /** The bytes at `offset`. The result may be a part of a larger buffer; copy it to keep it for long. */
  async read(offset: number, lengthBytes: number, options: NbdCallOptions = {}): Promise<Buffer> {
    this.#checkRange(offset, lengthBytes, this.maxRequestBytes);
    if (lengthBytes === 0) return Buffer.alloc(0);
    const assembly = new ReadAssembly(offset, lengthBytes, this.export.structuredReplies);
    const order = { command: COMMAND.READ, flags: 0, offset, lengthBytes, payload: undefined, assembly };
    return await this.#submit(order, options);
  }

  /** `data` must not change until the promise settles. */
  async write(offset: number, data: Buffer, options: NbdWriteOptions = {}): Promise<void> {
    this.#checkRange(offset, data.length, this.maxRequestBytes);
    const flags = this.#mutation('WRITE', undefined, options);
    if (data.length > 0) await this.#plain('WRITE', flags, offset, data.length, options, data);
  }

  /** Everything answered so far is on stable storage when it resolves. */
  async flush(options: NbdCallOptions = {}): Promise<void> {
    if (!this.canFlush) throw fail('NBD_UNSUPPORTED', 'FLUSH');
    await this.#plain('FLUSH', 0, 0, 0, options);
  }

  async trim(offset: number, lengthBytes: number, options: NbdWriteOptions = {}): Promise<void> {
    this.#checkRange(offset, lengthBytes, NBD_MAX_RANGE_BYTES);
    const flags = this.#mutation('TRIM', TRANSMISSION.SEND_TRIM, options);
    if (lengthBytes > 0) await this.#plain('TRIM', flags, offset, lengthBytes, options);
  }

  /** With `noHole` the space stays allocated. */
  async writeZeroes(
    offset: number,
    lengthBytes: number,
    options: NbdWriteOptions & { readonly noHole?: boolean } = {},
  ): Promise<void> {
    this.#checkRange(offset, lengthBytes, NBD_MAX_RANGE_BYTES);
    const flags =
      this.#mutation('WRITE_ZEROES', TRANSMISSION.SEND_WRITE_ZEROES, options) |
      (options.noHole === true ? COMMAND_FLAG.NO_HOLE : 0);
    if (lengthBytes > 0) await this.#plain('WRITE_ZEROES', flags, offset, lengthBytes, options);
  }

  /**
   * What `context` says of the range, as extents that cover it exactly, neighbours with equal flags joined; asks the
   * server as often as that takes. @throws NBD_CONTEXT_UNKNOWN, NBD_QUEUE_FULL above NBD_CLIENT_MAX_EXTENTS
   */
  async blockStatus(
    context: string,
    offset: number,
    lengthBytes: number,
    options: NbdCallOptions = {},
  ): Promise<NbdExtent[]> {
    const { contexts } = this.export;
    const id = contexts.get(context);
    if (id === undefined) throw fail('NBD_CONTEXT_UNKNOWN', context);
    this.#checkRange(offset, lengthBytes, Number.MAX_SAFE_INTEGER);
    const ids = new Set(contexts.values());
    const extents: { offset: number; lengthBytes: number; flags: number }[] = [];
    const end = offset + lengthBytes;
    for (let at = offset; at < end; ) {
      const asked = Math.min(end - at, NBD_MAX_RANGE_BYTES);
      const assembly = new StatusAssembly(asked, ids);
      const order = { command: COMMAND.BLOCK_STATUS, flags: 0, offset: at, lengthBytes: asked };
      const found = await this.#submit({ ...order, payload: undefined, assembly }, options);
      for (const descriptor of found.get(id) ?? []) {
        const length = Math.min(descriptor.lengthBytes, end - at);
        const last = extents.at(-1);
        if (last?.flags === descriptor.flags) last.lengthBytes += length;
        else extents.push({ offset: at, lengthBytes: length, flags: descriptor.flags });
        at += length;
      }
      if (extents.length > NBD_CLIENT_MAX_EXTENTS) throw fail('NBD_QUEUE_FULL', `${extents.length} extents`);
    }
    return extents;
  }

  /** Orderly end: waits for the calls under way, tells the server, waits until it has closed (at most `timeoutMs`). */
  async disconnect(timeoutMs: number = NBD_DISCONNECT_TIMEOUT_MS): Promise<void> {
    if (this.#closing === undefined && this.#connection.ended === undefined) {
      this.#closing = fail('NBD_CLOSED', 'disconnected');
      const end = async () => {
        await this.#queue.idle();
        this.#connection.writer.add(encodeRequest(COMMAND.DISC, 0, 0n, 0, 0));
        this.#connection.end();
        await this.closed;
      };
      try {
        await withTimeout(end(), timeoutMs, () => new Error('timeout'));
      } catch {
        this.#connection.destroy(this.#closing);
      }
    }
    await this.closed.catch(() => {});
  }

  /** Ends the session at once; calls under way reject with `reason`. */
  abort(reason: Error = fail('NBD_CLOSED', 'aborted')): void {
    this.#closing ??= reason;
    this.#connection.destroy(reason);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disconnect();
  }

  #offers(flag: number): boolean {
    return (this.export.flags & flag) !== 0;
  }

  #checkRange(offset: number, lengthBytes: number, maxBytes: number): void {
    const { sizeBytes, blockSizes } = this.export;
    const block = blockSizes.minimumBytes;
    const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(lengthBytes);
    if (!whole || offset < 0 || lengthBytes < 0 || offset + lengthBytes > sizeBytes) {
      throw fail('NBD_RANGE', `[${offset}, +${lengthBytes}) of ${sizeBytes} bytes`);
    }
    if (lengthBytes > maxBytes) throw fail('NBD_RANGE', `${lengthBytes} bytes are more than ${maxBytes}`);
    if (offset % block !== 0 || lengthBytes % block !== 0) {
      throw fail('NBD_RANGE', `[${offset}, +${lengthBytes}) is not in blocks of ${block} bytes`);
    }
  }

  /** Checks that a change may be asked for; returns its command flags. */
  #mutation(command: string, needed: number | undefined, options: NbdWriteOptions): number {
    if (this.readOnly) throw fail('NBD_UNSUPPORTED', `${command} on a read-only export`);
    if (needed !== undefined && !this.#offers(needed)) throw fail('NBD_UNSUPPORTED', command);
    if (options.fua !== true) return 0;
    if (!this.#offers(TRANSMISSION.SEND_FUA)) throw fail('NBD_UNSUPPORTED', 'FUA');
    return COMMAND_FLAG.FUA;
  }

  #plain(
    name: 'WRITE' | 'FLUSH' | 'TRIM' | 'WRITE_ZEROES',
    flags: number,
    offset: number,
    lengthBytes: number,
    options: NbdCallOptions,
    payload?: Buffer,
  ): Promise<void> {
    const assembly = new PlainAssembly(name);
    return this.#submit({ command: COMMAND[name], flags, offset, lengthBytes, payload, assembly }, options);
  }

  #submit<T>(order: Order<T>, options: NbdCallOptions): Promise<T> {
    if (this.#closing !== undefined) return Promise.reject(this.#closing);
    return this.#queue.submit(order, options.signal);
  }
}
