import { X509Certificate } from 'node:crypto';
import { connect as connectTcp, type Socket } from 'node:net';
import { connect as connectTls, createServer, type Server, type TLSSocket } from 'node:tls';
import { encodePreamble, GATEWAY_STATUS } from '../wire/link/preamble.ts';
import { CloudapError } from '../base/errors.ts';
import { admitPeer } from './allowed-peers.ts';
import {
  ATTEMPT_TIMEOUT_MS,
  CLOSE_LINGER_MS,
  MAX_LISTENER_CONNECTIONS,
  HANDSHAKE_TIMEOUT_MS,
} from './constants.ts';
import { fail } from './errors.ts';

/** PEM texts: the center's CA, this site's certificate (or chain) and its private key. */
export interface TlsMaterial {
  ca: string;
  cert: string;
  key: string;
  /** File that says which certificates of the CA are good now (allowed-peers.ts); without it all are. */
  peers?: string | undefined;
}
/** A gateway's TCP address, or a Unix socket. With `relay` it is the gateway of that site, which passes on what is meant for another. */
export type LinkAddress = { host: string; port: number; relay?: string | undefined } | { path: string };

export interface DialTlsOptions {
  address: LinkAddress;
  /** Route to ask the gateway for; without one the address is the listener itself. */
  route?: string | undefined;
  tls: TlsMaterial;
  expectedPeer: string;
  signal?: AbortSignal | undefined;
  timeoutMs?: number;
}

const SITE_URI = 'URI:cloudap://site/';
const SITE_ID = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
/** sun_path of Linux holds 108 bytes with its end. */
const MAX_SOCKET_PATH_BYTES = 107;

/** @throws LINK_PATH_TOO_LONG */
export function checkSocketPath(path: string): string {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) throw fail('LINK_PATH_TOO_LONG', path);
  return path;
}

export function isSiteId(text: string): boolean {
  return SITE_ID.test(text);
}

/** The site that a peer's certificate names in its subject alternative name, `cloudap://site/<id>`. @throws LINK_PEER_IDENTITY */
export function siteOfCertificate(certificate: { subjectaltname?: string | undefined }): string {
  // a name with unusual characters is quoted by Node, and then does not match
  const names = (certificate.subjectaltname ?? '').split(', ').filter((name) => name.startsWith(SITE_URI));
  const id = names[0]?.slice(SITE_URI.length);
  if (names.length !== 1 || id === undefined || !SITE_ID.test(id)) {
    throw fail('LINK_PEER_IDENTITY', 'it names no CloudAP site, or more than one');
  }
  return id;
}

/** @throws LINK_PEER_IDENTITY */
export function checkPeer(certificate: { subjectaltname?: string | undefined }, expectedPeer: string): void {
  const site = siteOfCertificate(certificate);
  if (site !== expectedPeer) {
    throw fail('LINK_PEER_IDENTITY', `it is site ${site}, expected was ${expectedPeer}`, {
      fields: { site, expectedPeer },
    });
  }
}

/** For Node's TLS: a node is known by the name in its certificate, not by the address that it has today. */
export function identityCheck(
  expectedPeer: string,
): (host: string, certificate: { subjectaltname?: string | undefined }) => Error | undefined {
  return (_host, certificate) => {
    try {
      checkPeer(certificate, expectedPeer);
      return undefined;
    } catch (error) {
      return error as Error;
    }
  };
}

export function connectionLost(cause: Error): CloudapError {
  return fail('LINK_CONNECTION_LOST', cause.message, { cause });
}

/** An error of a socket before the peer has said anything: refused certificates look like this, and so does a lost connection. */
export function tlsFailure(cause: Error): CloudapError {
  if (cause instanceof CloudapError) return cause;
  const code = (cause as NodeJS.ErrnoException).code ?? '';
  if (
    code !== 'ERR_SSL_UNEXPECTED_EOF_WHILE_READING' &&
    /^ERR_(SSL|TLS|OSSL)_|CERT|SELF_SIGNED|UNABLE_TO_/.test(code)
  ) {
    return fail('LINK_TLS', `${cause.message} (${code})`, { cause });
  }
  return connectionLost(cause);
}

/** The gateway answers the preamble with one byte before anything else passes. */
async function askGateway(socket: Socket, route: string): Promise<void> {
  socket.write(encodePreamble(route));
  const status = await new Promise<number>((resolve, reject) => {
    const onReadable = (): void => {
      const byte = socket.read(1) as Buffer | null;
      if (!byte) return;
      socket.off('readable', onReadable);
      resolve(byte[0] ?? 0);
    };
    socket.on('readable', onReadable);
    socket.once('end', () => reject(fail('LINK_CONNECTION_LOST', 'the gateway closed it')));
    socket.once('error', (cause) => reject(connectionLost(cause)));
    socket.once('close', () => reject(fail('LINK_CONNECTION_LOST', 'closed')));
  });
  if (status === GATEWAY_STATUS.OK) return;
  if (status === GATEWAY_STATUS.NO_ROUTE) throw fail('LINK_NO_ROUTE', route, { fields: { route } });
  if (status === GATEWAY_STATUS.BUSY) throw fail('LINK_GATEWAY_BUSY');
  throw fail('LINK_GATEWAY_REFUSED', `status ${status}`);
}

function connected(socket: Socket, event: 'connect' | 'secureConnect'): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once(event, resolve);
    socket.once('error', (cause) => reject(event === 'connect' ? connectionLost(cause) : tlsFailure(cause)));
    socket.once('close', () => reject(fail('LINK_CONNECTION_LOST', 'closed while connecting')));
  });
}

/**
 * One authenticated connection: TCP or Unix socket, the gateway's preamble, TLS 1.3 with both certificates, the
 * peer's site checked. The socket is handed over paused. `address` is dialled as it is: see relay/dial.ts.
 * @throws LINK_CONNECTION_LOST, LINK_TIMEOUT, LINK_NO_ROUTE, LINK_GATEWAY_BUSY, LINK_GATEWAY_REFUSED, LINK_TLS,
 *   LINK_PEER_IDENTITY, LINK_PATH_TOO_LONG; the signal's reason
 */
export async function dialTls(options: DialTlsOptions): Promise<TLSSocket> {
  const { tls, expectedPeer } = options;
  return dialRaw(options, async (socket) => {
    const secure = connectTls({
      socket,
      ca: tls.ca,
      cert: tls.cert,
      key: tls.key,
      minVersion: 'TLSv1.3',
      rejectUnauthorized: true,
      checkServerIdentity: identityCheck(expectedPeer),
    });
    await connected(secure, 'secureConnect');
    admitPeer(secure, expectedPeer, tls.peers);
    return secure;
  });
}

/**
 * A connection, and the gateway's answer if there is a route; then `work`, within the same time.
 * @throws as `dialTls`, and what `work` throws
 */
export async function dialRaw<T>(
  options: Pick<DialTlsOptions, 'address' | 'route' | 'signal' | 'timeoutMs'>,
  work: (socket: Socket) => Promise<T>,
): Promise<T> {
  const { address, route, signal } = options;
  signal?.throwIfAborted();
  const timeoutMs = options.timeoutMs ?? ATTEMPT_TIMEOUT_MS;
  const raw =
    'path' in address ? connectTcp(checkSocketPath(address.path)) : connectTcp(address.port, address.host);
  let failure: Error | undefined;
  const give = (why: Error): void => {
    failure ??= why;
    raw.destroy(why);
  };
  const timer = setTimeout(
    () => give(fail('LINK_TIMEOUT', `no connection within ${timeoutMs} ms`)),
    timeoutMs,
  );
  const onAbort = (): void => give(signal?.reason as Error);
  signal?.addEventListener('abort', onAbort, { once: true });
  // each step below listens for itself; between two steps an error must not be without a listener
  raw.on('error', () => {});
  try {
    await connected(raw, 'connect');
    raw.setNoDelay(true);
    if (route !== undefined) await askGateway(raw, route);
    return await work(raw);
  } catch (error) {
    raw.destroy();
    throw failure ?? error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
  }
}

/** The site at the other end of a connection to a server. @throws LINK_TLS, LINK_PEER_IDENTITY */
function authenticated(socket: TLSSocket): string {
  if (socket.authorized) return siteOfCertificate(socket.getPeerCertificate());
  const why = (socket.authorizationError as Error | string | null) ?? 'no certificate';
  throw fail(
    'LINK_TLS',
    `the client’s certificate was refused: ${typeof why === 'string' ? why : why.message}`,
  );
}

/**
 * A TLS 1.3 server on a Unix socket that lets in only peers with a certificate of the CA that names a site.
 * `onConnection` gets each of them. Others are told why in the protocol's own words (`refusal`), and go to
 * `onRefused` (for the log): a TLS alert would get lost, as the client has been talking for half a round trip when it
 * is sent, and closing a socket with unread bytes drops what was written. So it is checked here, after the handshake.
 */
export function serveTls(options: {
  tls: TlsMaterial;
  onConnection: (socket: TLSSocket, peerSiteId: string) => void;
  refusal: (error: CloudapError) => Buffer | string;
  onRefused?: ((error: Error) => void) | undefined;
}): Server {
  const server = createServer({
    ca: options.tls.ca,
    cert: options.tls.cert,
    key: options.tls.key,
    minVersion: 'TLSv1.3',
    requestCert: true,
    rejectUnauthorized: false,
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
  });
  server.maxConnections = MAX_LISTENER_CONNECTIONS;
  server.on('tlsClientError', (error, socket) => {
    options.onRefused?.(error);
    socket.destroy();
  });
  server.on('secureConnection', (socket) => {
    socket.on('error', () => {});
    let siteId: string;
    try {
      siteId = authenticated(socket);
      admitPeer(socket, siteId, options.tls.peers);
    } catch (error) {
      options.onRefused?.(error as Error);
      socket.end(options.refusal(error as CloudapError));
      socket.resume();
      const timer = setTimeout(() => socket.destroy(), CLOSE_LINGER_MS);
      socket.once('close', () => clearTimeout(timer));
      return;
    }
    options.onConnection(socket, siteId);
  });
  return server;
}

/** The site id in a certificate given as PEM text. @throws LINK_PEER_IDENTITY, LINK_CONFIG */
export function siteIdOf(certificatePem: string): string {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(certificatePem);
  } catch (cause) {
    throw fail('LINK_CONFIG', 'the site certificate is no PEM text', { cause });
  }
  return siteOfCertificate({ subjectaltname: certificate.subjectAltName });
}
