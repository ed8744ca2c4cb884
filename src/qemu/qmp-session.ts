import type { Duplex } from 'node:stream';
import { withTimeout } from '../base/async.ts';
import { asCloudapError, type CloudapError } from '../base/errors.ts';
import { QmpDecoder } from '../wire/qmp/decode.ts';
import { encodeCommand } from '../wire/qmp/encode.ts';
import type { QmpErrorReply, QmpEvent, QmpGreeting, QmpMessage, QmpReturn } from '../wire/qmp/messages.ts';
import {
  QMP_COMMAND_TIMEOUT_MS,
  QMP_CONNECT_TIMEOUT_MS,
  QMP_EXPLAIN_TIMEOUT_MS,
  QMP_MAX_IN_FLIGHT,
  QMP_MAX_QUEUED,
} from './constants.ts';
import { fail } from './errors.ts';
import { QmpEventLog, type QmpMark, type WaitEventOptions } from './qmp-events.ts';

/**
 *     idle -> greeting -> negotiating -> running -> ending -> closed
 *       \________\____________\____________\________^
 */
export type QmpState = 'idle' | 'greeting' | 'negotiating' | 'running' | 'ending' | 'closed';

const TRANSITIONS: Readonly<Record<QmpState, readonly QmpState[]>> = {
  idle: ['greeting', 'ending'],
  greeting: ['negotiating', 'ending'],
  negotiating: ['running', 'ending'],
  running: ['ending'],
  ending: ['closed'],
  closed: [],
};

export interface QmpSessionOptions {
  /** Use out-of-band commands if QEMU offers them. Default: true. */
  readonly oob?: boolean | undefined;
  /** Finds the true cause when the connection is lost (e.g. QEMU's exit code and log); bounded in time. */
  readonly explainLoss?: ((loss: CloudapError) => Promise<CloudapError>) | undefined;
}

export interface QmpConnectOptions extends QmpSessionOptions {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

export interface CommandOptions {
  /** Ends the wait, not the command: what QEMU has been told it does. */
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
  /** Overtake what QEMU is busy with, where both sides can (else it is sent as usual). */
  readonly oob?: boolean | undefined;
}

interface Call {
  readonly command: string;
  readonly line: Buffer;
  readonly id: number;
  readonly oob: boolean;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** One client of one QMP monitor. Commands may be given at any time, many at once; each has its own deadline. */
export class QmpSession implements AsyncDisposable {
  readonly #stream: Duplex;
  readonly #explainLoss: QmpSessionOptions['explainLoss'];
  readonly #wantOob: boolean;
  readonly #events = new QmpEventLog();
  /** Given to QEMU and not answered, the callers that gave up included. */
  readonly #sent = new Map<number, Call>();
  readonly #queue: Call[] = [];
  readonly #greeted = Promise.withResolvers<QmpGreeting>();
  readonly #closed = Promise.withResolvers<CloudapError>();
  #state: QmpState = 'idle';
  #greeting: QmpGreeting | undefined;
  #nextId = 0;
  #oob = false;
  #cause: CloudapError | undefined;

  /** Settles, never rejects, with the cause when the session has ended; QMP_CLOSED after `close()`. */
  readonly closed: Promise<CloudapError> = this.#closed.promise;

  constructor(stream: Duplex, options: QmpSessionOptions = {}) {
    this.#stream = stream;
    this.#explainLoss = options.explainLoss;
    this.#wantOob = options.oob ?? true;
    this.#greeted.promise.catch(() => {});
  }

  get state(): QmpState {
    return this.#state;
  }

  /** QEMU's greeting: version and what the monitor can do. @throws QMP_CLOSED before the session has been opened */
  get greeting(): QmpGreeting {
    if (!this.#greeting) throw fail('QMP_CLOSED', 'no greeting yet');
    return this.#greeting;
  }

  /** Reads the greeting and negotiates. On failure the stream is destroyed. @throws QMP_CONNECT_FAILED and others */
  async open(
    options: { signal?: AbortSignal | undefined; timeoutMs?: number | undefined } = {},
  ): Promise<void> {
    const { signal, timeoutMs = QMP_CONNECT_TIMEOUT_MS } = options;
    this.#become('greeting');
    const decoder = new QmpDecoder((message) => this.#message(message));
    this.#stream.on('data', (chunk: Buffer) => {
      try {
        decoder.push(chunk);
      } catch (error) {
        this.#end(asCloudapError(error));
      }
    });
    this.#stream.on('error', (error) => this.#end(fail('QMP_DISCONNECTED', error.message, { cause: error })));
    this.#stream.on('end', () => this.#end(fail('QMP_DISCONNECTED', 'QEMU closed it')));
    this.#stream.on('close', () => this.#end(fail('QMP_DISCONNECTED')));
    const onAbort = (): void => this.#end(fail('QMP_CLOSED', 'aborted', { cause: signal?.reason }));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      signal?.throwIfAborted();
      await withTimeout(this.#negotiate(timeoutMs), timeoutMs, () =>
        fail('QMP_CONNECT_FAILED', `no answer within ${timeoutMs} ms`),
      );
    } catch (error) {
      this.#end(asCloudapError(error));
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  async #negotiate(timeoutMs: number): Promise<void> {
    const greeting = await this.#greeted.promise;
    const oob = this.#wantOob && greeting.capabilities.includes('oob');
    await this.execute('qmp_capabilities', oob ? { enable: ['oob'] } : undefined, { timeoutMs });
    this.#oob = oob;
    this.#become('running');
    this.#pump();
  }

  /**
   * Gives one command and waits for its answer.
   * @throws QMP_COMMAND_FAILED (fields command, class, desc), QMP_TIMEOUT, QMP_BUSY, QMP_UNSENDABLE, the signal's
   * reason, or the cause of the session's end
   */
  async execute(
    command: string,
    args?: Readonly<Record<string, unknown>>,
    options: CommandOptions = {},
  ): Promise<unknown> {
    const { signal, timeoutMs = QMP_COMMAND_TIMEOUT_MS } = options;
    signal?.throwIfAborted();
    if (this.#cause) throw this.#cause;
    if (this.#state === 'idle') throw fail('QMP_CLOSED', 'the session has not been opened');
    if (this.#queue.length >= QMP_MAX_QUEUED) {
      throw fail('QMP_BUSY', `${this.#queue.length}`, { fields: { command } });
    }
    const id = this.#nextId++;
    const oob = (options.oob ?? false) && this.#oob;
    const line = encodeCommand({ execute: command, arguments: args, id, oob });
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const call: Call = { command, line, id, oob, resolve, reject };
    const onAbort = (): void => reject(signal?.reason);
    signal?.addEventListener('abort', onAbort, { once: true });
    const timer =
      timeoutMs === Infinity
        ? undefined
        : setTimeout(
            () =>
              reject(
                fail('QMP_TIMEOUT', `${command} within ${timeoutMs} ms`, { fields: { command, timeoutMs } }),
              ),
            timeoutMs,
          );
    this.#queue.push(call);
    this.#pump();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      // Not sent yet: then it never is. Sent: its place stays taken until QEMU answers.
      const waiting = this.#queue.indexOf(call);
      if (waiting !== -1) this.#queue.splice(waiting, 1);
    }
  }

  /** The place in the sequence of events that `waitEvent({ since })` and `eventsSince` look back to. */
  mark(): QmpMark {
    return this.#events.mark();
  }

  eventsSince(mark: QmpMark): readonly QmpEvent[] {
    return this.#events.since(mark);
  }

  /** Tells every event to the listener; returns the function that ends it. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    return this.#events.onEvent(listener);
  }

  /** @throws QMP_EVENT_TIMEOUT, QMP_EVENTS_LOST, the signal's reason, the cause of the session's end */
  waitEvent(
    name: string | readonly string[],
    predicate?: (event: QmpEvent) => boolean,
    options?: WaitEventOptions,
  ): Promise<QmpEvent> {
    return this.#events.wait(name, predicate, options);
  }

  /** Ends the session, not QEMU. Calls under way end with QMP_CLOSED. */
  async close(): Promise<void> {
    this.#end(fail('QMP_CLOSED'));
    await this.closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #become(next: QmpState): void {
    if (!TRANSITIONS[this.#state].includes(next)) {
      throw fail('QMP_CLOSED', `a session that is ${this.#state} cannot become ${next}`);
    }
    this.#state = next;
  }

  /** Sends what may be sent: one command while negotiating, then up to the limit; out-of-band ones at once. */
  #pump(): void {
    const negotiating = this.#state === 'greeting' || this.#state === 'negotiating';
    if (!negotiating && this.#state !== 'running') return;
    for (let i = 0; i < this.#queue.length; ) {
      const call = this.#queue[i] as Call;
      const early = negotiating && call.command !== 'qmp_capabilities';
      if (early || (!call.oob && this.#sent.size >= QMP_MAX_IN_FLIGHT)) {
        i++;
        continue;
      }
      this.#queue.splice(i, 1);
      this.#sent.set(call.id, call);
      this.#stream.write(call.line);
    }
  }

  #message(message: QmpMessage): void {
    if (this.#state === 'ending' || this.#state === 'closed') return;
    switch (message.kind) {
      case 'event':
        this.#events.push(message);
        return;
      case 'greeting':
        if (this.#state !== 'greeting') {
          this.#end(fail('QMP_UNEXPECTED', 'a second greeting'));
          return;
        }
        this.#greeting = message;
        this.#become('negotiating');
        this.#greeted.resolve(message);
        return;
      case 'return':
      case 'error':
        this.#answer(message);
        return;
    }
  }

  #answer(message: QmpReturn | QmpErrorReply): void {
    const call = typeof message.id === 'number' ? this.#sent.get(message.id) : undefined;
    if (!call) {
      const what = message.kind === 'error' ? message.description : 'a return';
      this.#end(
        fail('QMP_UNEXPECTED', `an answer to no command (id ${JSON.stringify(message.id)}): ${what}`),
      );
      return;
    }
    this.#sent.delete(call.id);
    if (message.kind === 'return') call.resolve(message.value);
    else {
      const { errorClass, description } = message;
      const fields = { command: call.command, class: errorClass, desc: description };
      call.reject(fail('QMP_COMMAND_FAILED', `${call.command}: ${description}`, { fields }));
    }
    this.#pump();
  }

  /** The first cause is the one that everybody gets. */
  #end(cause: CloudapError): void {
    if (this.#state === 'ending' || this.#state === 'closed') return;
    this.#become('ending');
    this.#stream.destroy();
    void this.#finish(cause);
  }

  async #finish(loss: CloudapError): Promise<void> {
    let cause = loss;
    if (loss.code === 'QMP_DISCONNECTED' && this.#explainLoss) {
      cause = await withTimeout(this.#explainLoss(loss), QMP_EXPLAIN_TIMEOUT_MS, () => loss).catch(
        () => loss,
      );
    }
    this.#cause = cause;
    this.#become('closed');
    this.#greeted.reject(cause);
    for (const call of [...this.#sent.values(), ...this.#queue.splice(0)]) call.reject(cause);
    this.#sent.clear();
    this.#events.end(cause);
    this.#closed.resolve(cause);
  }
}
