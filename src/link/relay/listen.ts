import type { Socket } from 'node:net';
import { withTimeout } from '../../base/async.ts';
import { MAX_LISTENER_CONNECTIONS, RELAY_OPEN_TIMEOUT_MS, RELAY_TICKETS_MAX } from '../constants.ts';
import { fail } from '../errors.ts';
import { dialRpcTls } from '../rpc-tls.ts';
import { dialRaw, type TlsMaterial } from '../tls.ts';
import { ROUTE_RELAY, ticketSchema } from './messages.ts';

/** The gateway of a site that relays, and its id. */
export interface RelayAddress {
  host: string;
  port: number;
  relay: string;
}

export interface RelayedRoute extends AsyncDisposable {
  /** Resolves when the relay has it open. @throws why there is no connection; LINK_RELAY_BUSY, LINK_TIMEOUT */
  opened(): Promise<void>;
}

/**
 * Keeps a route of this site open at a relay, again after each loss: `onSocket` gets each connection that comes, as the
 * gateway would pass it on, before TLS.
 */
export function openRelayedRoute(options: {
  address: RelayAddress;
  route: string;
  tls: TlsMaterial;
  onSocket: (socket: Socket) => void;
  onFailed?: ((error: Error) => void) | undefined;
}): RelayedRoute {
  const { address, route, tls, onSocket, onFailed } = options;
  const stop = new AbortController();
  const { signal } = stop;
  /** Connections that have been passed on and last, and those that are being made. */
  const sockets = new Set<Socket>();
  let opening = Promise.withResolvers<void>();
  let isOpen = false;
  let lastError: Error | undefined;
  let calls = 0;

  const failed = (error: Error): void => {
    lastError = error;
    onFailed?.(error);
  };
  const called = async (params: unknown): Promise<void> => {
    const { ticket } = ticketSchema.parse(params);
    if (calls >= RELAY_TICKETS_MAX || sockets.size >= MAX_LISTENER_CONNECTIONS)
      throw fail('LINK_RELAY_BUSY', `${calls} connections at once`);
    calls += 1;
    try {
      const gateway = { host: address.host, port: address.port };
      const socket = await dialRaw({ address: gateway, route: ticket, signal }, (raw) =>
        Promise.resolve(raw),
      );
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      onSocket(socket);
    } catch (error) {
      // who dialled has given up, or dials again
      if (!signal.aborted) onFailed?.(error as Error);
    } finally {
      calls -= 1;
    }
  };
  const client = dialRpcTls({
    address: { host: address.host, port: address.port },
    route: ROUTE_RELAY,
    tls,
    expectedPeer: address.relay,
    signal,
    handlers: { 'relay.call': called },
    onConnect(peer) {
      peer.call('relay.open', { route }, { timeoutMs: RELAY_OPEN_TIMEOUT_MS }).then(
        () => {
          isOpen = true;
          opening.resolve();
        },
        (error: unknown) => {
          failed(error as Error);
          peer.close(error as Error);
        },
      );
    },
    onDisconnect(cause) {
      if (isOpen) opening = Promise.withResolvers<void>();
      isOpen = false;
      if (!signal.aborted) failed(cause);
    },
  });
  return {
    async opened() {
      const late = (): Error =>
        lastError ?? fail('LINK_TIMEOUT', `the relay ${address.relay} did not open ${route}`);
      await withTimeout(opening.promise, RELAY_OPEN_TIMEOUT_MS, late);
    },
    async [Symbol.asyncDispose]() {
      stop.abort(fail('LINK_CLOSED'));
      await client[Symbol.asyncDispose]();
    },
  };
}
