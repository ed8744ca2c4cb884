/** RPC between site agents: mutual TLS, through the gateways, dialled again after each loss. */
import { once } from 'node:events';
import { unlink } from 'node:fs/promises';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { sleep } from '../base/async.ts';
import { monotonicMs } from './clock.ts';
import { BACKOFF_MAX_MS, BACKOFF_MIN_MS, RPC_PING_INTERVAL_MS, RPC_SILENCE_MS } from './constants.ts';
import { fail } from './errors.ts';
import { dialPeer } from './relay/dial.ts';
import { type CallOptions, type RpcHandlers, RpcPeer } from './rpc.ts';
import { checkSocketPath, type DialTlsOptions, serveTls, tlsFailure, type TlsMaterial } from './tls.ts';

/** Both sides answer it, so that a dead WAN is noticed; the name is kept out of the handlers' way. */
const PING = 'rpc.ping';
const withPing = (handlers: RpcHandlers): RpcHandlers => ({
  ...handlers,
  [PING]: () => Promise.resolve(null),
});

/** Calls PING while the peer is silent, and closes it after RPC_SILENCE_MS. */
function watch(peer: RpcPeer): void {
  const timer = setInterval(() => {
    if (peer.silentMs > RPC_SILENCE_MS)
      peer.close(fail('LINK_CONNECTION_LOST', `silent for ${RPC_SILENCE_MS} ms`));
    else if (peer.silentMs > RPC_PING_INTERVAL_MS / 2) {
      peer.call(PING, undefined, { timeoutMs: RPC_SILENCE_MS }).catch(() => {});
    }
  }, RPC_PING_INTERVAL_MS);
  void peer.closed.then(() => clearInterval(timer));
}

export interface RpcServer extends AsyncDisposable {
  /** The connected peers. */
  peers(): readonly RpcPeer[];
  /** Serves a connection that has come another way (openRelayedRoute). */
  take(socket: Socket): void;
  /** Shows another certificate from the next connection on. */
  renew(tls: TlsMaterial): void;
}

/**
 * Serves RPC on a Unix socket to peers with a certificate of the CA. `handlers` may depend on the peer's site.
 * @throws LINK_PATH_TOO_LONG, and what listening throws
 */
export async function serveRpcTls(options: {
  socketPath: string;
  tls: TlsMaterial;
  handlers: RpcHandlers | ((peerSiteId: string) => RpcHandlers);
  onPeer?: (peer: RpcPeer & { readonly peerSiteId: string }) => void;
  onRefused?: (error: Error) => void;
}): Promise<RpcServer> {
  const peers = new Set<RpcPeer>();
  const server = serveTls({
    tls: options.tls,
    onRefused: options.onRefused,
    // as an answer to the dialler's first call, which is its PING
    refusal: (error) => `${JSON.stringify({ id: 1, error })}\n`,
    onConnection(socket, peerSiteId) {
      socket.setNoDelay(true);
      const { handlers } = options;
      const own = typeof handlers === 'function' ? handlers(peerSiteId) : handlers;
      const peer = new RpcPeer(socket, { handlers: withPing(own), peerSiteId });
      peers.add(peer);
      void peer.closed.then(() => peers.delete(peer));
      watch(peer);
      options.onPeer?.(peer as RpcPeer & { readonly peerSiteId: string });
    },
  });
  await unlink(checkSocketPath(options.socketPath)).catch(() => {});
  server.listen(options.socketPath);
  await once(server, 'listening');
  return {
    peers: () => [...peers],
    take: (socket) => void server.emit('connection', socket),
    renew: ({ ca, cert, key }) => server.setSecureContext({ ca, cert, key, minVersion: 'TLSv1.3' }),
    async [Symbol.asyncDispose]() {
      const closed = new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      for (const peer of peers) peer.close(fail('RPC_CLOSED', 'the server was closed'));
      await closed;
    },
  };
}

export interface RpcDialOptions extends Pick<DialTlsOptions, 'address' | 'route' | 'tls' | 'expectedPeer'> {
  handlers?: RpcHandlers;
  /** Ends the client. */
  signal?: AbortSignal;
  /** A connection was made; for what must be said on each (registration). */
  onConnect?: (peer: RpcPeer) => void;
  /** A connection ended or an attempt failed; it is tried again. */
  onDisconnect?: (cause: Error) => void;
}

/** A connection to another agent that is dialled again, with pauses of 50 ms to 2 s, until it is closed. */
export interface RpcClient extends AsyncDisposable {
  /** The current connection, if there is one. */
  readonly peer: RpcPeer | undefined;
  /** Why there is none. */
  readonly lastError: Error | undefined;
  /** Resolves with a connection, waiting for one if need be. */
  connected(signal?: AbortSignal): Promise<RpcPeer>;
  /** As RpcPeer.call; without a connection it fails at once with RPC_CLOSED (cause: why there is none). */
  call(method: string, params?: unknown, options?: CallOptions): Promise<unknown>;
}

export function dialRpcTls(options: RpcDialOptions): RpcClient {
  const stop = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal;
  const waiting = new Set<PromiseWithResolvers<RpcPeer>>();
  let peer: RpcPeer | undefined;
  let lastError: Error | undefined;

  const onAbort = (): void => {
    const reason = fail('RPC_CLOSED', 'the client was closed');
    for (const waiter of waiting) waiter.reject(reason);
    waiting.clear();
    peer?.close(reason);
  };
  if (signal.aborted) queueMicrotask(onAbort);
  signal.addEventListener('abort', onAbort, { once: true });

  const runOnce = async (): Promise<void> => {
    const socket: TLSSocket = await dialPeer({ ...options, signal });
    socket.setNoDelay(true);
    const mine = new RpcPeer(socket, {
      handlers: withPing(options.handlers ?? {}),
      peerSiteId: options.expectedPeer,
    });
    // only an answer shows that the other side has let us in: TLS 1.3 refuses a client after it believes to be connected
    try {
      await mine.call(PING, undefined, { timeoutMs: RPC_SILENCE_MS, signal });
    } catch (error) {
      mine.close();
      const cause = (error as Error).cause;
      throw cause instanceof Error ? tlsFailure(cause) : error;
    }
    peer = mine;
    lastError = undefined;
    watch(mine);
    options.onConnect?.(mine);
    for (const waiter of waiting) waiter.resolve(mine);
    waiting.clear();
    lastError = await mine.closed;
    peer = undefined;
    options.onDisconnect?.(lastError);
  };

  const run = async (): Promise<void> => {
    let pauseMs = BACKOFF_MIN_MS;
    while (!signal.aborted) {
      const startedMs = monotonicMs();
      try {
        await runOnce();
      } catch (error) {
        if (signal.aborted) return;
        lastError = error as Error;
        options.onDisconnect?.(lastError);
      }
      pauseMs =
        monotonicMs() - startedMs > 2 * BACKOFF_MAX_MS
          ? BACKOFF_MIN_MS
          : Math.min(BACKOFF_MAX_MS, pauseMs * 2);
      await sleep(pauseMs / 2 + (Math.random() * pauseMs) / 2, signal).catch(() => {});
    }
  };
  const running = run();

  return {
    get peer() {
      return peer;
    },
    get lastError() {
      return lastError;
    },
    connected(waitSignal) {
      if (peer) return Promise.resolve(peer);
      if (signal.aborted) return Promise.reject(fail('RPC_CLOSED', 'the client was closed'));
      const waiter = Promise.withResolvers<RpcPeer>();
      waiting.add(waiter);
      const onWaitAbort = (): void => {
        waiting.delete(waiter);
        waiter.reject(waitSignal?.reason);
      };
      if (waitSignal?.aborted) onWaitAbort();
      waitSignal?.addEventListener('abort', onWaitAbort, { once: true });
      return waiter.promise.finally(() => waitSignal?.removeEventListener('abort', onWaitAbort));
    },
    call(method, params, callOptions) {
      if (peer) return peer.call(method, params, callOptions);
      return Promise.reject(
        fail('RPC_CLOSED', lastError?.message ?? 'not connected yet', { cause: lastError }),
      );
    },
    async [Symbol.asyncDispose]() {
      stop.abort(fail('RPC_CLOSED'));
      await running;
    },
  };
}
