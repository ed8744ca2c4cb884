import type { Socket } from 'node:net';
import { HANDSHAKE, COMMAND } from '../wire/nbd/constants.ts';
import { encodeGreeting } from '../wire/nbd/encode.ts';
import { fail as wireFail } from '../wire/nbd/errors.ts';
import type { ClientToServerFrame, RequestFrame } from '../wire/nbd/frames.ts';
import { RequestParser } from '../wire/nbd/request-parser.ts';
import { BatchWriter } from './batch-writer.ts';
import { fail } from './errors.ts';
import { type Agreement, type NbdExport, ServerHandshake } from './server-handshake.ts';
import { type Reply, RequestExecutor } from './server-requests.ts';

export interface ConnectionLimits {
  readonly maxInFlightRequests: number;
  readonly maxInFlightBytes: number;
  readonly handshakeTimeoutMs: number;
}

export interface ConnectionEvents {
  /** A backend failed; the client has been told an error number. */
  onBackendError(error: unknown, request: RequestFrame): void;
  /** The connection is gone; `error` unless it ended in order. */
  onClosed(connection: ServerConnection, error: Error | undefined): void;
}

/**
 * handshake: options until GO; transmission: requests; draining: no more requests are read, those in flight are still
 * answered; closed: nothing is sent any more.
 */
type State = 'handshake' | 'transmission' | 'draining' | 'closed';
const NEXT: Readonly<Record<State, readonly State[]>> = {
  handshake: ['transmission', 'draining', 'closed'],
  transmission: ['draining', 'closed'],
  draining: ['closed'],
  closed: [],
};

/** One client of a server: moves bytes between its socket, the handshake and the executor. */
export class ServerConnection {
  readonly #socket: Socket;
  readonly #limits: ConnectionLimits;
  readonly #events: ConnectionEvents;
  readonly #handshake: ServerHandshake;
  readonly #parser = new RequestParser();
  readonly #writer: BatchWriter;
  readonly #gone = new AbortController();
  #timer: NodeJS.Timeout;
  #executor: RequestExecutor | undefined;
  #exportName: string | undefined;
  #state: State = 'handshake';
  #inFlightRequests = 0;
  #inFlightBytes = 0;
  #pumping = false;
  #paused = false;
  #inputEnded = false;
  #error: Error | undefined;

  constructor(
    socket: Socket,
    exports: ReadonlyMap<string, NbdExport>,
    limits: ConnectionLimits,
    events: ConnectionEvents,
  ) {
    this.#socket = socket;
    this.#limits = limits;
    this.#events = events;
    this.#handshake = new ServerHandshake(exports);
    this.#writer = new BatchWriter(socket);
    this.#timer = setTimeout(() => {
      this.destroy(fail('NBD_HANDSHAKE_TIMEOUT', `${limits.handshakeTimeoutMs} ms`));
    }, limits.handshakeTimeoutMs);
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => {
      this.#parser.push(chunk);
      this.#pump();
    });
    socket.on('drain', () => this.#pump());
    socket.on('end', () => {
      this.#inputEnded = true;
      this.#pump();
    });
    socket.on('error', (error) => this.destroy(fail('NBD_CONNECTION_LOST', error.message, { cause: error })));
    socket.on('close', () => this.destroy(undefined));
    socket.write(encodeGreeting(HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES));
  }

  /** The export in use, once the handshake is over. */
  get exportName(): string | undefined {
    return this.#exportName;
  }

  get inFlightRequests(): number {
    return this.#inFlightRequests;
  }

  get closed(): boolean {
    return this.#state === 'closed';
  }

  /** Reads no more requests, answers those in flight, then ends the connection. */
  drain(): void {
    if (this.#state === 'closed' || this.#state === 'draining') return;
    this.#enter('draining');
    this.#pause();
    this.#finishDraining();
  }

  /** Ends the connection at once; answers not sent yet are lost. */
  destroy(error: Error | undefined): void {
    if (this.#state === 'closed') return;
    this.#error = error;
    this.#enter('closed');
    this.#gone.abort(error ?? fail('NBD_CONNECTION_LOST', 'the client has gone'));
    this.#socket.destroy();
    this.#events.onClosed(this, this.#error);
  }

  #enter(state: State): void {
    clearTimeout(this.#timer);
    if (!NEXT[this.#state].includes(state)) throw new Error(`NBD connection: ${this.#state} -> ${state}`);
    this.#state = state;
  }

  #busy(): boolean {
    const { maxInFlightRequests, maxInFlightBytes } = this.#limits;
    if (this.#inFlightRequests >= maxInFlightRequests) return true;
    return this.#inFlightBytes + this.#writer.unsentBytes >= maxInFlightBytes;
  }

  /** Takes frames until there are none or the limits are reached; then the socket is not read any further. */
  #pump(): void {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#state === 'handshake' || this.#state === 'transmission') {
        if (this.#busy()) {
          // what this batch answered may be all that is in the way
          this.#writer.flush();
          if (this.#busy()) break;
        }
        const frame = this.#parser.next();
        if (frame === undefined) break;
        this.#take(frame);
      }
      this.#writer.flush();
    } catch (error) {
      this.destroy(error as Error);
    } finally {
      this.#pumping = false;
    }
    if (this.#state === 'draining') this.#finishDraining();
    else if (this.#state !== 'closed') this.#adjustFlow();
  }

  #adjustFlow(): void {
    const busy = this.#busy();
    if (busy) this.#pause();
    else if (this.#paused) {
      this.#paused = false;
      this.#socket.resume();
    }
    if (!this.#inputEnded || busy) return;
    // everything was taken and no more can come: the client left without DISC, nobody waits for answers
    const unfinished = this.#inFlightRequests > 0 || this.#parser.bufferedBytes > 0;
    this.destroy(unfinished ? fail('NBD_CONNECTION_LOST', 'the client left in mid-request') : undefined);
  }

  #pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  #take(frame: ClientToServerFrame): void {
    if (frame.kind === 'request') this.#request(frame);
    else if (frame.kind === 'clientFlags') this.#handshake.clientFlags(frame.flags);
    else {
      const step = this.#handshake.option(frame);
      for (const reply of step.replies) this.#writer.add(reply);
      if (step.next === 'disconnect') this.#enter('draining');
      else if (step.next !== 'continue') this.#begin(step.next);
    }
  }

  #begin(agreement: Agreement): void {
    this.#enter('transmission');
    this.#exportName = agreement.export.name;
    this.#executor = new RequestExecutor(agreement, this.#gone.signal, (error, request) =>
      this.#events.onBackendError(error, request),
    );
    this.#parser.beginTransmission();
  }

  #request(request: RequestFrame): void {
    if (request.command === COMMAND.DISC) {
      this.#enter('draining');
      this.#pause();
      return;
    }
    if (this.#executor === undefined) throw wireFail('NBD_BAD_FRAME', 'a request during the handshake');
    const reply = this.#executor.execute(request);
    if (reply instanceof Promise) this.#later(request, reply);
    else this.#send(reply);
  }

  #later(request: RequestFrame, reply: Promise<Reply>): void {
    const bytes =
      request.command === COMMAND.READ || request.command === COMMAND.WRITE ? request.lengthBytes : 0;
    this.#inFlightRequests += 1;
    this.#inFlightBytes += bytes;
    void reply.then((pieces) => {
      this.#inFlightRequests -= 1;
      this.#inFlightBytes -= bytes;
      if (this.#state === 'closed') return;
      this.#send(pieces);
      if (this.#state === 'draining') this.#finishDraining();
      else if (this.#paused) this.#pump();
      else this.#writer.schedule();
    });
  }

  #send(reply: Reply): void {
    for (const piece of reply) this.#writer.add(piece);
  }

  #finishDraining(): void {
    this.#writer.flush();
    if (this.#inFlightRequests > 0 || this.#socket.writableEnded) return;
    this.#socket.end(() => this.destroy(undefined));
    // a client that does not take its last answers must not hold the connection for ever
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.destroy(undefined), this.#limits.handshakeTimeoutMs);
  }
}
