/**
 * JSON-RPC between two processes over any duplex stream (Unix socket, TLS). Both sides may call.
 * One JSON object a line, UTF-8, at most RPC_MAX_LINE_BYTES with its newline:
 *
 *   {"id":1,"method":"vm.start","params":{...}}      a call;          without `id` a notification: no answer
 *   {"id":1,"result":...}                            its answer
 *   {"id":1,"error":{"code","message","remedy","fields"}}
 *   {"cancel":1}                                     the caller waits no more; the handler's signal aborts
 */
import type { Duplex } from 'node:stream';
import { z } from 'zod';
import { asCloudapError, CloudapError } from '../base/errors.ts';
import {
  CLOSE_LINGER_MS,
  RPC_MAX_HANDLING,
  RPC_MAX_LINE_BYTES,
  RPC_MAX_PENDING,
  RPC_TIMEOUT_MS,
} from './constants.ts';
import { fail } from './errors.ts';

export interface RpcContext {
  /** Aborts when the caller gave up or the connection has gone. */
  signal: AbortSignal;
  /** The caller's site on an authenticated connection. */
  peerSiteId: string | undefined;
  peer: RpcPeer;
}
/** What the other side may call. A handler validates `params` itself; what it throws crosses as a coded error. */
export type RpcHandlers = Readonly<
  Record<string, (params: unknown, context: RpcContext) => Promise<unknown>>
>;

export interface CallOptions {
  timeoutMs?: number;
  signal?: AbortSignal;
}

export interface RpcPeerOptions {
  handlers?: RpcHandlers;
  peerSiteId?: string | undefined;
  /** A handler of a notification failed: nobody else hears of it. */
  onNotifyError?: (method: string, error: Error) => void;
}

const Id = z.int().min(1);
const Line = z.union([
  z.strictObject({ id: Id.optional(), method: z.string().min(1).max(128), params: z.unknown().optional() }),
  z.strictObject({ id: Id, result: z.unknown() }),
  z.strictObject({
    id: Id,
    error: z.object({
      code: z.string().max(128),
      message: z.string(),
      remedy: z.string(),
      fields: z.record(z.string(), z.unknown()).default({}),
    }),
  }),
  z.strictObject({ cancel: Id }),
]);

interface Pending {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
}

/** One end of an RPC connection. It owns the stream and ends with it. */
export class RpcPeer {
  /** Resolves with the reason when the connection has ended (RPC_CLOSED after an orderly end). Never rejects. */
  readonly closed: Promise<Error>;
  readonly peerSiteId: string | undefined;
  readonly #stream: Duplex;
  readonly #handlers: RpcHandlers;
  readonly #onNotifyError: ((method: string, error: Error) => void) | undefined;
  readonly #pending = new Map<number, Pending>();
  readonly #handling = new Map<number, AbortController>();
  readonly #end = Promise.withResolvers<Error>();
  #notifications = 0;
  #partial: Buffer[] = [];
  #partialBytes = 0;
  #nextId = 1;
  #failure: Error | undefined;
  #lastArrivalMs = performance.now();

  constructor(stream: Duplex, options: RpcPeerOptions = {}) {
    this.#stream = stream;
    this.#handlers = options.handlers ?? {};
    this.#onNotifyError = options.onNotifyError;
    this.peerSiteId = options.peerSiteId;
    this.closed = this.#end.promise;
    stream.on('data', (chunk: Buffer) => this.#read(chunk));
    stream.on('error', (cause: Error) => this.#finish(fail('RPC_CLOSED', cause.message, { cause })));
    stream.on('end', () => this.#finish(fail('RPC_CLOSED', 'the peer closed it')));
    stream.on('close', () => this.#finish(fail('RPC_CLOSED')));
  }

  get isClosed(): boolean {
    return this.#failure !== undefined;
  }
  /** Milliseconds since anything arrived. */
  get silentMs(): number {
    return performance.now() - this.#lastArrivalMs;
  }

  /**
   * Calls a method of the other side.
   * @throws what its handler threw; RPC_TIMEOUT, RPC_CLOSED, RPC_NO_METHOD, RPC_OVERLOAD, RPC_LINE_TOO_LONG; the signal's reason
   */
  call(method: string, params?: unknown, options: CallOptions = {}): Promise<unknown> {
    const { signal, timeoutMs = RPC_TIMEOUT_MS } = options;
    if (this.#failure) return Promise.reject(this.#failure);
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    if (this.#pending.size >= RPC_MAX_PENDING) {
      return Promise.reject(fail('RPC_OVERLOAD', `${this.#pending.size} calls wait for an answer`));
    }
    const id = this.#nextId;
    this.#nextId += 1;
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#write({ id, method, params });
      this.#pending.set(id, { resolve, reject });
      const giveUp = (error: Error): void => {
        if (!this.#pending.delete(id)) return;
        if (!this.#failure) this.#write({ cancel: id });
        reject(error);
      };
      if (timeoutMs !== Number.POSITIVE_INFINITY) {
        const late = (): void =>
          giveUp(fail('RPC_TIMEOUT', `${method}, ${timeoutMs} ms`, { fields: { method } }));
        timer = setTimeout(late, timeoutMs);
      }
      onAbort = () => giveUp(signal?.reason as Error);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
    return answer.finally(() => {
      clearTimeout(timer);
      if (onAbort) signal?.removeEventListener('abort', onAbort);
    });
  }

  /** Tells the other side something; nothing says whether it was heard. @throws RPC_CLOSED, RPC_LINE_TOO_LONG */
  notify(method: string, params?: unknown): void {
    if (this.#failure) throw this.#failure;
    this.#write({ method, params });
  }

  /** Ends the connection; calls that wait end with RPC_CLOSED. */
  close(reason?: Error): void {
    this.#finish(reason ?? fail('RPC_CLOSED', 'closed at this side'));
  }

  #write(message: object): void {
    const line = `${JSON.stringify(message)}\n`;
    const lengthBytes = Buffer.byteLength(line);
    if (lengthBytes > RPC_MAX_LINE_BYTES) {
      throw fail('RPC_LINE_TOO_LONG', `${lengthBytes} bytes`, { fields: { lengthBytes } });
    }
    this.#stream.write(line);
  }

  #read(chunk: Buffer): void {
    this.#lastArrivalMs = performance.now();
    let at = 0;
    while (!this.#failure) {
      const newline = chunk.indexOf(0x0a, at);
      const end = newline === -1 ? chunk.length : newline;
      if (this.#partialBytes + end - at >= RPC_MAX_LINE_BYTES) {
        this.#finish(fail('RPC_LINE_TOO_LONG', 'from the peer'));
        return;
      }
      if (newline === -1) {
        if (end > at) {
          this.#partial.push(chunk.subarray(at, end));
          this.#partialBytes += end - at;
        }
        return;
      }
      const line =
        this.#partial.length === 0
          ? chunk.subarray(at, end)
          : Buffer.concat([...this.#partial, chunk.subarray(at, end)]);
      this.#partial = [];
      this.#partialBytes = 0;
      at = newline + 1;
      if (line.length > 0) this.#line(line);
    }
  }

  #line(line: Buffer): void {
    let json: unknown;
    try {
      json = JSON.parse(line.toString('utf8'));
    } catch (cause) {
      this.#finish(fail('RPC_BAD_MESSAGE', 'not JSON', { cause }));
      return;
    }
    const parsed = Line.safeParse(json);
    if (!parsed.success) {
      this.#finish(fail('RPC_BAD_MESSAGE', z.prettifyError(parsed.error).slice(0, 300)));
      return;
    }
    const message = parsed.data;
    if ('method' in message) this.#called(message.id, message.method, message.params);
    else if ('cancel' in message)
      this.#handling.get(message.cancel)?.abort(fail('RPC_TIMEOUT', 'the caller gave up'));
    else {
      // an answer that comes after its call was given up is nobody's
      const pending = this.#pending.get(message.id);
      this.#pending.delete(message.id);
      if (!pending) return;
      if ('error' in message) {
        const { code, message: text, remedy, fields } = message.error;
        pending.reject(new CloudapError(code, text, remedy, { fields }));
      } else pending.resolve(message.result);
    }
  }

  #called(id: number | undefined, method: string, params: unknown): void {
    const handler = Object.hasOwn(this.#handlers, method) ? this.#handlers[method] : undefined;
    if (id === undefined) {
      if (handler) void this.#notified(handler, method, params);
      return;
    }
    if (this.#handling.has(id)) {
      this.#finish(fail('RPC_BAD_MESSAGE', `call ${id} twice`));
      return;
    }
    if (!handler) this.#answer(id, { error: fail('RPC_NO_METHOD', method, { fields: { method } }) });
    else if (this.#handling.size >= RPC_MAX_HANDLING) {
      this.#answer(id, { error: fail('RPC_OVERLOAD', `${this.#handling.size} calls are being handled`) });
    } else void this.#handle(handler, id, params);
  }

  async #notified(handler: RpcHandlers[string], method: string, params: unknown): Promise<void> {
    if (this.#notifications >= RPC_MAX_HANDLING) {
      this.#onNotifyError?.(method, fail('RPC_OVERLOAD', `${this.#notifications} notifications`));
      return;
    }
    this.#notifications += 1;
    try {
      await handler(params, {
        signal: new AbortController().signal,
        peerSiteId: this.peerSiteId,
        peer: this,
      });
    } catch (error) {
      this.#onNotifyError?.(method, error as Error);
    } finally {
      this.#notifications -= 1;
    }
  }

  async #handle(handler: RpcHandlers[string], id: number, params: unknown): Promise<void> {
    const abort = new AbortController();
    this.#handling.set(id, abort);
    let answer: { result: unknown } | { error: CloudapError };
    try {
      const result = await handler(params, { signal: abort.signal, peerSiteId: this.peerSiteId, peer: this });
      answer = { result: result ?? null };
    } catch (error) {
      answer = { error: asCloudapError(error) };
    }
    this.#handling.delete(id);
    this.#answer(id, answer);
  }

  #answer(id: number, answer: { result: unknown } | { error: CloudapError }): void {
    if (this.#failure) return;
    try {
      this.#write({ id, ...answer });
    } catch (error) {
      this.#write({ id, error: asCloudapError(error) });
    }
  }

  #finish(reason: Error): void {
    if (this.#failure) return;
    this.#failure = reason;
    // what was written still goes out, if the peer takes it
    const timer = setTimeout(() => this.#stream.destroy(), CLOSE_LINGER_MS);
    this.#stream.once('close', () => clearTimeout(timer));
    this.#stream.end(() => this.#stream.destroy());
    for (const pending of this.#pending.values()) pending.reject(reason);
    this.#pending.clear();
    for (const abort of this.#handling.values()) abort.abort(reason);
    this.#handling.clear();
    this.#partial = [];
    this.#end.resolve(reason);
  }
}
