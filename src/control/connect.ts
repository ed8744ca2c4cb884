import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { Logger } from 'pino';
import { identityCheck } from '../link/tls.ts';
import { CONNECT_TIMEOUT_MS, RECONNECT_WAIT_MS } from './constants.ts';
import { failControl } from './errors.ts';

export interface ControlAddress {
  /** host:port of one or more NATS servers. */
  servers: readonly string[];
  /**
   * With the center's own nats-server: files with our certificate, read anew for each connection, as it may have been renewed; and the
   * node whose certificate the server must show.
   */
  tls?: { files: { ca: string; cert: string; key: string }; server: string };
  /** With a NATS of the user's, as its operator gave them. */
  user?: string;
  password?: string;
  token?: string;
}

/**
 * A connection to the control plane that connects again for ever; requests meanwhile end with CONTROL_UNREACHABLE.
 * An agent passes `wait`: it starts with its site cut off, too.
 * @throws CONTROL_UNREACHABLE, CONTROL_REFUSED
 */
export async function connectControl(
  name: string,
  address: ControlAddress,
  options: { log: Logger; wait?: boolean },
): Promise<NatsConnection> {
  const { tls, servers, user, password, token } = address;
  let connection: NatsConnection;
  try {
    connection = await connect({
      name,
      servers: [...servers],
      // our own inbox, so that permissions can name it
      inboxPrefix: inboxOf(name),
      maxReconnectAttempts: -1,
      waitOnFirstConnect: options.wait === true,
      ignoreAuthErrorAbort: options.wait === true,
      reconnectTimeWait: RECONNECT_WAIT_MS,
      timeout: CONNECT_TIMEOUT_MS,
      ...(user === undefined ? {} : { user, pass: password ?? '' }),
      ...(token === undefined ? {} : { token }),
      ...(tls ? { tls: tlsOptions(tls) } : {}),
    });
  } catch (error) {
    throw connectFailure(error, servers);
  }
  void logStatus(connection, options.log);
  return connection;
}

export const inboxOf = (node: string): string => `_INBOX_${node}`;

function tlsOptions({ files, server }: NonNullable<ControlAddress['tls']>): object {
  return {
    caFile: files.ca,
    certFile: files.cert,
    keyFile: files.key,
    minVersion: 'TLSv1.3',
    checkServerIdentity: identityCheck(server),
  };
}

function connectFailure(error: unknown, servers: readonly string[]): Error {
  const { message, cause } = error as Error;
  const why = `${servers.join(', ')}: ${cause instanceof Error ? cause.message : message}`;
  const refused = /authori[sz]ation|authentication|certificate|alert|SSL/i.test(
    `${message} ${String(cause)}`,
  );
  return failControl(refused ? 'CONTROL_REFUSED' : 'CONTROL_UNREACHABLE', why, { cause: error });
}

async function logStatus(connection: NatsConnection, log: Logger): Promise<void> {
  for await (const status of connection.status()) {
    if (status.type === 'disconnect') log.warn('control plane lost');
    else if (status.type === 'reconnect') log.info('control plane back');
    else if (status.type === 'error') log.warn({ err: status.error.message }, 'control plane');
  }
}
