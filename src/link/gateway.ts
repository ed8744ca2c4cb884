/**
 * The only TCP listener of a site. A connection names a route (wire/link/preamble.ts), and from then on bytes pass
 * in both directions between it and the Unix socket `<socketDir>/<route>.sock`. The gateway holds no keys and reads
 * nothing of what passes: TLS ends in the process behind the socket.
 */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { GATEWAY_STATUS, MAX_PREAMBLE_BYTES, parsePreamble } from '../wire/link/preamble.ts';
import { GATEWAY_MAX_CONNECTIONS, GATEWAY_PREAMBLE_TIMEOUT_MS } from './constants.ts';
import { checkSocketPath } from './tls.ts';

export interface GatewayOptions {
  host: string;
  /** 0 takes a free one. */
  port: number;
  /** Folder of the routes' sockets. */
  socketDir: string;
  maxConnections?: number;
  preambleTimeoutMs?: number;
}

export interface GatewayStats {
  connections: number;
  accepted: number;
  refused: number;
}

export class Gateway implements AsyncDisposable {
  readonly #options: GatewayOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #connections = 0;
  #accepted = 0;
  #refused = 0;

  private constructor(options: GatewayOptions) {
    this.#options = options;
    this.#server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (socket) =>
      this.#accept(socket),
    );
  }

  /** @throws what listening throws (EADDRINUSE ...), LINK_PATH_TOO_LONG */
  static async listen(options: GatewayOptions): Promise<Gateway> {
    checkSocketPath(join(options.socketDir, 'x'.repeat(20)));
    const gateway = new Gateway(options);
    gateway.#server.listen(options.port, options.host);
    await once(gateway.#server, 'listening');
    return gateway;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }
  stats(): GatewayStats {
    return { connections: this.#connections, accepted: this.#accepted, refused: this.#refused };
  }

  #track(socket: Socket): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
  }

  #accept(client: Socket): void {
    this.#connections += 1;
    this.#track(client);
    client.once('close', () => {
      this.#connections -= 1;
    });
    client.on('error', () => client.destroy());
    if (this.#connections > (this.#options.maxConnections ?? GATEWAY_MAX_CONNECTIONS)) {
      this.#refuse(client, GATEWAY_STATUS.BUSY);
      return;
    }
    let received: Buffer = Buffer.alloc(0);
    const timer = setTimeout(
      () => this.#refuse(client, GATEWAY_STATUS.BAD_PREAMBLE),
      this.#options.preambleTimeoutMs ?? GATEWAY_PREAMBLE_TIMEOUT_MS,
    );
    const onData = (chunk: Buffer): void => {
      // a preamble is far shorter than any chunk: what is kept stays bounded by it and one chunk
      received = received.length === 0 ? chunk : Buffer.concat([received, chunk]);
      let preamble: ReturnType<typeof parsePreamble>;
      try {
        preamble = parsePreamble(received);
      } catch {
        stop();
        this.#refuse(client, GATEWAY_STATUS.BAD_PREAMBLE);
        return;
      }
      if (!preamble && received.length <= MAX_PREAMBLE_BYTES) return;
      stop();
      client.pause();
      if (preamble) this.#connect(client, preamble.route, preamble.rest);
      else this.#refuse(client, GATEWAY_STATUS.BAD_PREAMBLE);
    };
    const onEnd = (): void => {
      stop();
      client.destroy();
    };
    const stop = (): void => {
      clearTimeout(timer);
      client.off('data', onData);
      client.off('end', onEnd);
      client.off('close', stop);
    };
    client.on('data', onData);
    client.on('end', onEnd);
    client.on('close', stop);
  }

  #refuse(client: Socket, status: number): void {
    this.#refused += 1;
    client.end(Buffer.of(status));
    // the rest of what it says is read and forgotten for a moment, so that the status is not lost in a reset
    client.resume();
    const timer = setTimeout(() => client.destroy(), 1_000);
    client.once('close', () => clearTimeout(timer));
  }

  #connect(client: Socket, route: string, rest: Buffer): void {
    const inside = connect({ path: join(this.#options.socketDir, `${route}.sock`), allowHalfOpen: true });
    this.#track(inside);
    let isSpliced = false;
    inside.on('error', () => {
      inside.destroy();
      if (isSpliced) client.destroy();
      else this.#refuse(client, GATEWAY_STATUS.NO_ROUTE);
    });
    client.once('close', () => inside.destroySoon());
    inside.once('connect', () => {
      isSpliced = true;
      this.#accepted += 1;
      inside.once('close', () => client.destroySoon());
      client.write(Buffer.of(GATEWAY_STATUS.OK));
      if (rest.length > 0) inside.write(rest);
      // pipe() pauses the one side while the other cannot take more, and passes the end of each direction on
      client.pipe(inside);
      inside.pipe(client);
    });
  }

  /** Stops listening and cuts all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}
