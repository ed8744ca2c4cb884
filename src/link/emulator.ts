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
  readonly #server: Server;
  readonly #up: Direction;
  readonly #down: Direction;
  readonly #sockets = new Set<Socket>();
  /** Connections that came while the link was cut: they hang until it is back. */
  #held: Socket[] = [];
  #isCut = false;
  #connectionsTotal = 0;

  private constructor(options: EmulatorOptions) {
    this.#options = options;
    const random = options.random ?? Math.random;
    this.#up = new Direction(random);
    this.#down = new Direction(random);
    this.setRate(options.rateMbit);
    this.setDelay(options.rttMs ?? 0, options.jitterMs ?? 0);
    this.#server = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
      socket.on('error', () => socket.destroy());
      if (this.#isCut) this.#held.push(socket);
      else this.#connect(socket);
    });
  }

  static async listen(options: EmulatorOptions): Promise<Emulator> {
    const emulator = new Emulator(options);
    if ('path' in options.listen) {
      await unlink(checkSocketPath(options.listen.path)).catch(() => {});
      emulator.#server.listen(options.listen.path);
    } else emulator.#server.listen(options.listen.port, options.listen.host);
    await once(emulator.#server, 'listening');
    return emulator;
  }

  /** Where it listens. */
  get address(): LinkAddress {
    const address = this.#server.address() as AddressInfo | string;
    return typeof address === 'string' ? { path: address } : { host: address.address, port: address.port };
  }

  #connect(client: Socket): void {
    const { forward } = this.#options;
    this.#connectionsTotal += 1;
    const server =
      'path' in forward
        ? connect({ path: forward.path, allowHalfOpen: true })
        : connect({ port: forward.port, host: forward.host, allowHalfOpen: true, noDelay: true });
    this.#sockets.add(server);
    server.once('close', () => this.#sockets.delete(server));
    server.on('error', () => server.destroy());
    const pipes: [Direction, Pipe][] = [
      [this.#up, { from: client, to: server, lastDueMs: 0 }],
      [this.#down, { from: server, to: client, lastDueMs: 0 }],
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
    for (const socket of this.#held.splice(0)) if (!socket.destroyed) this.#connect(socket);
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
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    this.#up.stop();
    this.#down.stop();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}
