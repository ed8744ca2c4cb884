import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server } from 'node:net';
import type { RequestFrame } from '../wire/nbd/frames.ts';
import { describeAddress, type NbdAddress } from './address.ts';
import {
  NBD_HANDSHAKE_TIMEOUT_MS,
  NBD_MAX_SOCKET_PATH_BYTES,
  NBD_SERVER_DRAIN_TIMEOUT_MS,
  NBD_SERVER_MAX_CONNECTIONS,
  NBD_SERVER_MAX_IN_FLIGHT_BYTES,
  NBD_SERVER_MAX_IN_FLIGHT_REQUESTS,
} from './constants.ts';
import { fail } from './errors.ts';
import { type ConnectionLimits, ServerConnection } from './server-connection.ts';
import type { NbdExport } from './server-handshake.ts';

export interface NbdServerLimits extends ConnectionLimits {
  readonly maxConnections: number;
}

export interface NbdServerOptions {
  /** A Unix socket (made with mode 0600; one left behind by a dead server is replaced) or TCP; port 0 = any. */
  readonly listen: NbdAddress;
  readonly exports: readonly NbdExport[];
  readonly limits?: Partial<NbdServerLimits>;
  /** A backend threw; the client was told an NBD error number. */
  readonly onBackendError?: (error: unknown, request: RequestFrame) => void;
  /** A connection ended otherwise than in order: the peer broke the protocol, vanished, or crossed a limit. */
  readonly onConnectionError?: (error: Error) => void;
}

/** Serves exports until it is closed. `await using` closes it in order. */
export class NbdServer implements AsyncDisposable {
  /** Where it listens; with the port that was chosen. */
  readonly address: NbdAddress;
  readonly #server: Server;
  readonly #connections: ReadonlySet<ServerConnection>;
  #ending: Promise<void> | undefined;

  constructor(address: NbdAddress, server: Server, connections: ReadonlySet<ServerConnection>) {
    this.address = address;
    this.#server = server;
    this.#connections = connections;
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  get inFlightRequests(): number {
    let sum = 0;
    for (const connection of this.#connections) sum += connection.inFlightRequests;
    return sum;
  }

  /** Stops listening, lets requests in flight finish (at most `timeoutMs`), ends the connections. */
  async close(timeoutMs: number = NBD_SERVER_DRAIN_TIMEOUT_MS): Promise<void> {
    this.#ending ??= new Promise((resolve) => this.#server.close(() => resolve()));
    for (const connection of this.#connections) connection.drain();
    const timer = setTimeout(() => this.#dropAll(undefined), timeoutMs);
    try {
      await this.#ending;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Stops listening and drops the connections at once; clients see them end. */
  async destroy(reason?: Error): Promise<void> {
    this.#ending ??= new Promise((resolve) => this.#server.close(() => resolve()));
    this.#dropAll(reason);
    await this.#ending;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #dropAll(reason: Error | undefined): void {
    for (const connection of this.#connections) connection.destroy(reason);
  }
}

/** Starts a server. @throws NBD_LISTEN_FAILED */
export async function startNbdServer(options: NbdServerOptions): Promise<NbdServer> {
  const exports = new Map(options.exports.map((e) => [e.name, e]));
  const limits: NbdServerLimits = {
    maxConnections: NBD_SERVER_MAX_CONNECTIONS,
    maxInFlightRequests: NBD_SERVER_MAX_IN_FLIGHT_REQUESTS,
    maxInFlightBytes: NBD_SERVER_MAX_IN_FLIGHT_BYTES,
    handshakeTimeoutMs: NBD_HANDSHAKE_TIMEOUT_MS,
    ...options.limits,
  };
  const connections = new Set<ServerConnection>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    const connection = new ServerConnection(socket, exports, limits, {
      onBackendError: (error, request) => options.onBackendError?.(error, request),
      onClosed: (closed, error) => {
        connections.delete(closed);
        if (error !== undefined) options.onConnectionError?.(error);
      },
    });
    connections.add(connection);
  });
  server.maxConnections = limits.maxConnections;
  await listen(server, options.listen);
  return new NbdServer(boundAddress(server, options.listen), server, connections);
}

async function listen(server: Server, address: NbdAddress): Promise<void> {
  if ('path' in address && Buffer.byteLength(address.path) > NBD_MAX_SOCKET_PATH_BYTES) {
    throw fail('NBD_LISTEN_FAILED', `${address.path} is longer than ${NBD_MAX_SOCKET_PATH_BYTES} bytes`);
  }
  try {
    await tryListen(server, address);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== 'EADDRINUSE' || !('path' in address) || !(await isStale(address.path))) {
      throw fail('NBD_LISTEN_FAILED', `${describeAddress(address)}: ${code}`, { cause: error });
    }
    unlinkSync(address.path);
    try {
      await tryListen(server, address);
    } catch (again) {
      throw fail('NBD_LISTEN_FAILED', describeAddress(address), { cause: again });
    }
  }
}

function tryListen(server: Server, address: NbdAddress): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(address, () => {
      server.off('error', reject);
      // connecting needs write permission, which the usual umask gives to nobody else even before this
      if ('path' in address) chmodSync(address.path, 0o600);
      resolve();
    });
  });
}

/** True for a socket file that nobody listens on any more. */
function isStale(path: string): Promise<boolean> {
  // connecting to an ordinary file is refused just the same
  if (!lstatSync(path).isSocket()) return Promise.resolve(false);
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
}

function boundAddress(server: Server, asked: NbdAddress): NbdAddress {
  if ('path' in asked) return asked;
  return { host: asked.host, port: (server.address() as AddressInfo).port };
}
