import type { NbdAddress } from './address.ts';
import { NbdClient } from './client.ts';
import { ClientConnection } from './client-connection.ts';
import { ClientHandshake, type NbdListEntry } from './client-handshake.ts';
import {
  NBD_CLIENT_MAX_IN_FLIGHT_BYTES,
  NBD_CLIENT_MAX_IN_FLIGHT_REQUESTS,
  NBD_CLIENT_MAX_QUEUED_REQUESTS,
  NBD_HANDSHAKE_TIMEOUT_MS,
} from './constants.ts';
import { fail } from './errors.ts';
import type { QueueLimits } from './request-queue.ts';

export interface NbdConnectOptions {
  /** The default export unless given. */
  readonly exportName?: string;
  /** Needed for meta contexts, and for errors with a message; true unless given. */
  readonly structuredReplies?: boolean;
  /** For `blockStatus`; connecting fails if the export lacks one of them. */
  readonly metaContexts?: readonly string[];
  readonly handshakeTimeoutMs?: number;
  readonly limits?: Partial<QueueLimits>;
  /** Ends the attempt to connect, not the session. */
  readonly signal?: AbortSignal;
}

/**
 * Opens a session. @throws NBD_CONNECT_FAILED, NBD_HANDSHAKE_TIMEOUT, NBD_EXPORT_UNKNOWN, NBD_CONTEXT_UNKNOWN,
 * NBD_OPTION_REFUSED, NBD_CONNECTION_LOST, NBD_BAD_MAGIC, NBD_BAD_FRAME, NBD_TOO_LARGE
 */
export async function connectNbd(address: NbdAddress, options: NbdConnectOptions = {}): Promise<NbdClient> {
  return await withHandshake(address, options, async (handshake, connection) => {
    const terms = await handshake.go({
      exportName: options.exportName ?? '',
      structuredReplies: options.structuredReplies ?? true,
      metaContexts: options.metaContexts ?? [],
    });
    return new NbdClient(connection, terms, {
      maxInFlightRequests: NBD_CLIENT_MAX_IN_FLIGHT_REQUESTS,
      maxInFlightBytes: NBD_CLIENT_MAX_IN_FLIGHT_BYTES,
      maxQueuedRequests: NBD_CLIENT_MAX_QUEUED_REQUESTS,
      ...options.limits,
    });
  });
}

/** The exports that a server lists. @throws as `connectNbd` does */
export async function listNbdExports(
  address: NbdAddress,
  options: Pick<NbdConnectOptions, 'handshakeTimeoutMs' | 'signal'> = {},
): Promise<NbdListEntry[]> {
  return await withHandshake(address, options, async (handshake, connection) => {
    const entries = await handshake.list();
    handshake.abort();
    connection.leave(fail('NBD_CLOSED', 'listed'));
    return entries;
  });
}

async function withHandshake<T>(
  address: NbdAddress,
  options: Pick<NbdConnectOptions, 'handshakeTimeoutMs' | 'signal'>,
  action: (handshake: ClientHandshake, connection: ClientConnection) => Promise<T>,
): Promise<T> {
  const { signal } = options;
  signal?.throwIfAborted();
  const timeoutMs = options.handshakeTimeoutMs ?? NBD_HANDSHAKE_TIMEOUT_MS;
  const connection = new ClientConnection(address);
  const timer = setTimeout(
    () => connection.destroy(fail('NBD_HANDSHAKE_TIMEOUT', `${timeoutMs} ms`)),
    timeoutMs,
  );
  const onAbort = () => connection.destroy(signal?.reason as Error);
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    const handshake = new ClientHandshake(connection);
    await handshake.greet();
    return await action(handshake, connection);
  } catch (error) {
    connection.destroy(error as Error);
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}
