/**
 * The only TCP listener of a site. A connection names a route (wire/link/preamble.ts), and from then on bytes pass
 * in both directions between it and the Unix socket `<socketDir>/<route>.sock`. The gateway holds no keys and reads
 * nothing of what passes: TLS ends in the process behind the socket.
 *
 * Where the agent relays (relay/server.ts), bytes pass between two connections instead, of sites that cannot reach each other:
 * both name the ticket that the agent gave them. It is a file, and good once.
 */
import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { access, unlink } from 'node:fs/promises';
import { GATEWAY_STATUS, MAX_PREAMBLE_BYTES, parsePreamble } from '../wire/link/preamble.ts';
import { GATEWAY_MAX_CONNECTIONS, GATEWAY_PREAMBLE_TIMEOUT_MS, RELAY_TICKET_MS } from './constants.ts';
import { isTicket, ticketFile } from './relay/ticket.ts';
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
  /** Pairs of connections that were put together. */
  relayed: number;
}

/** The first of the two that show a ticket. */
interface Waiting {
  client: Socket;
  rest: Buffer;
  timer: NodeJS.Timeout;
}

export class Gateway implements AsyncDisposable {
  readonly #options: GatewayOptions;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #connections = 0;
  #accepted = 0;
  #refused = 0;
  #relayed = 0;
  /** By ticket; each is one of `#sockets`, so there are no more of them. */
  readonly #waiting = new Map<string, Waiting>();

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
    return {
      connections: this.#connections,
      accepted: this.#accepted,
      refused: this.#refused,
      relayed: this.#relayed,
    };
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
      if (preamble && isTicket(preamble.route)) void this.#meet(client, preamble.route, preamble.rest);
      else if (preamble) this.#connect(client, preamble.route, preamble.rest);
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
      splice(client, rest, inside);
    });
  }

  /** The first to show a ticket waits for the other one. Never rejects. */
  async #meet(client: Socket, ticket: string, rest: Buffer): Promise<void> {
    const file = ticketFile(this.#options.socketDir, ticket);
    try {
      await access(file);
    } catch {
      this.#refuse(client, GATEWAY_STATUS.NO_ROUTE);
      return;
    }
    if (client.destroyed) return;
    const other = this.#waiting.get(ticket);
    if (!other) {
      const timer = setTimeout(() => {
        this.#waiting.delete(ticket);
        this.#refuse(client, GATEWAY_STATUS.NO_ROUTE);
      }, RELAY_TICKET_MS);
      this.#waiting.set(ticket, { client, rest, timer });
      client.once('close', () => {
        clearTimeout(timer);
        if (this.#waiting.get(ticket)?.client === client) this.#waiting.delete(ticket);
      });
      return;
    }
    this.#waiting.delete(ticket);
    clearTimeout(other.timer);
    try {
      await unlink(file);
    } catch {
      for (const socket of [client, other.client]) this.#refuse(socket, GATEWAY_STATUS.NO_ROUTE);
      return;
    }
    this.#relayed += 1;
    this.#accepted += 2;
    client.once('close', () => other.client.destroySoon());
    other.client.once('close', () => client.destroySoon());
    if (client.destroyed || other.client.destroyed) {
      client.destroy();
      other.client.destroy();
      return;
    }
    for (const socket of [client, other.client]) socket.write(Buffer.of(GATEWAY_STATUS.OK));
    if (other.rest.length > 0) client.write(other.rest);
    splice(client, rest, other.client);
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

/** `rest` came from `one` already. */
function splice(one: Socket, rest: Buffer, other: Socket): void {
  if (rest.length > 0) other.write(rest);
  // pipe() pauses the one side while the other cannot take more, and passes the end of each direction on
  one.pipe(other);
  other.pipe(one);
}
