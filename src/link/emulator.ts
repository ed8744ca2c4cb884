/**
 * A WAN in user space: a proxy for TCP and Unix connections that gives all of them together, per direction, a rate,
 * a delay with jitter and a bounded first-in-first-out queue. No root needed.
 *
 * Each direction is a schedule, not a token bucket: a piece that arrives at t leaves the queue at
 * max(t, when the piece before has left) + bytes / rate, and is delivered a delay later. When the queue holds its
 * limit, reading stops, so that it is the senders' kernel buffers that fill, as behind a slow modem.
 * Not emulated: loss of single packets (TCP would hide it), and other traffic.
 */
import { once } from 'node:events';
import { unlink } from 'node:fs/promises';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { EMULATOR_QUEUE_MIN_BYTES, EMULATOR_QUEUE_MS } from './constants.ts';
import { Direction, type Pipe } from './emulator-direction.ts';
import type { LinkSpec } from './link-spec.ts';
import { checkSocketPath, type LinkAddress } from './tls.ts';

export interface EmulatorOptions extends Partial<LinkSpec> {
  /** Where connections are taken; port 0 takes a free one. */
  listen: LinkAddress;
  /** Where they are led. */
  forward: LinkAddress;
  /** What the bottleneck's queue may hold, per direction; default 50 ms worth, at least 64 KiB. */
  queueBytes?: number;
  /** Of the jitter. */
  random?: () => number;
}
export interface EmulatorStats {
  /** Bytes that entered towards `forward` (up) and back (down). */
  bytesUp: number;
  bytesDown: number;
  connections: number;
  connectionsTotal: number;
  /** The most that the queues held. */
  maxQueueBytesUp: number;
  maxQueueBytesDown: number;
}

export class Emulator implements AsyncDisposable {
  readonly #options: EmulatorOptions;
  readonly #servers: Server[] = [];
  readonly #up: Direction;
  readonly #down: Direction;
  readonly #sockets = new Set<Socket>();
  /** Connections that came while the link was cut: they hang until it is back. */
  #held: (() => void)[] = [];
  #isCut = false;
  #connectionsTotal = 0;

  private constructor(options: EmulatorOptions) {
    this.#options = options;
    const random = options.random ?? Math.random;
    this.#up = new Direction(random);
    this.#down = new Direction(random);
    this.setRate(options.rateMbit);
    this.setDelay(options.rttMs ?? 0, options.jitterMs ?? 0);
  }

  static async listen(options: EmulatorOptions): Promise<Emulator> {
    const emulator = new Emulator(options);
    await emulator.addForward(options.listen, options.forward);
    return emulator;
  }

  /**
   * A further way onto the same link, whose rate and queues all of them share; returns where it listens.
   * `reversed`: this one is dialled from the other end, so that what its client sends goes down.
   */
  async addForward(listen: LinkAddress, forward: LinkAddress, reversed = false): Promise<LinkAddress> {
    const server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
      socket.on('error', () => socket.destroy());
      const go = (): void => {
        if (!socket.destroyed) this.#connect(socket, forward, reversed);
      };
      if (this.#isCut) this.#held.push(go);
      else go();
    });
    if ('path' in listen) {
      await unlink(checkSocketPath(listen.path)).catch(() => {});
      server.listen(listen.path);
    } else server.listen(listen.port, listen.host);
    this.#servers.push(server);
    await once(server, 'listening');
    return addressOf(server);
  }

  /** Where it listens first. */
  get address(): LinkAddress {
    return addressOf(this.#servers[0] as Server);
  }

  #connect(client: Socket, forward: LinkAddress, reversed: boolean): void {
    this.#connectionsTotal += 1;
    const server =
      'path' in forward
        ? connect({ path: forward.path, allowHalfOpen: true })
        : connect({ port: forward.port, host: forward.host, allowHalfOpen: true, noDelay: true });
    this.#sockets.add(server);
    server.once('close', () => this.#sockets.delete(server));
    server.on('error', () => server.destroy());
    const [there, back] = reversed ? [this.#down, this.#up] : [this.#up, this.#down];
    const pipes: [Direction, Pipe][] = [
      [there, { from: client, to: server, lastDueMs: 0 }],
      [back, { from: server, to: client, lastDueMs: 0 }],
    ];
    for (const [direction, pipe] of pipes) {
      direction.pipes.add(pipe);
      pipe.from.on('data', (chunk: Buffer) => direction.take(pipe, chunk));
      pipe.from.on('end', () => direction.end(pipe));
      // a reset, too, reaches the other side as late as everything else
      pipe.from.once('close', () => {
        direction.pipes.delete(pipe);
        direction.end(pipe);
      });
      pipe.to.on('drain', () => direction.resume());
      if (direction.mayRead(pipe)) pipe.from.resume();
      else pipe.from.pause();
    }
  }

  /** The line goes dead in both directions: nothing passes, nothing ends, new connections hang. */
  cut(): void {
    this.#isCut = true;
    this.#up.cut();
    this.#down.cut();
  }

  restore(): void {
    if (!this.#isCut) return;
    this.#isCut = false;
    this.#up.restore();
    this.#down.restore();
    for (const go of this.#held.splice(0)) go();
  }

  /** Resets all connections; new ones work. */
  drop(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Undefined: unlimited. Pieces in the queue keep the schedule that they have. */
  setRate(rateMbit: number | undefined): void {
    const bytesPerMs = rateMbit === undefined ? Number.POSITIVE_INFINITY : (rateMbit * 1000) / 8;
    for (const direction of [this.#up, this.#down]) {
      direction.rateBytesPerMs = bytesPerMs;
      direction.queueLimitBytes =
        this.#options.queueBytes ??
        (rateMbit === undefined
          ? Number.POSITIVE_INFINITY
          : Math.max(EMULATOR_QUEUE_MIN_BYTES, Math.round(bytesPerMs * EMULATOR_QUEUE_MS)));
    }
  }

  setDelay(rttMs: number, jitterMs = 0): void {
    for (const direction of [this.#up, this.#down]) {
      direction.delayMs = rttMs / 2;
      direction.jitterMs = jitterMs;
    }
  }

  stats(): EmulatorStats {
    return {
      bytesUp: this.#up.bytes,
      bytesDown: this.#down.bytes,
      connections: this.#up.pipes.size,
      connectionsTotal: this.#connectionsTotal,
      maxQueueBytesUp: this.#up.maxQueueBytes,
      maxQueueBytesDown: this.#down.maxQueueBytes,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = this.#servers.map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
        }),
    );
    this.#up.stop();
    this.#down.stop();
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(closed);
  }
}

function addressOf(server: Server): LinkAddress {
  const address = server.address() as AddressInfo | string;
  return typeof address === 'string' ? { path: address } : { host: address.address, port: address.port };
}
