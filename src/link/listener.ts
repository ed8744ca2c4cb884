import { once } from 'node:events';
import { unlink } from 'node:fs/promises';
import type { TLSSocket, Server } from 'node:tls';
import { CLOSE_REASON, type HelloFrame } from '../wire/link/frames.ts';
import { CLOSE_LINGER_MS, HANDSHAKE_TIMEOUT_MS, MAX_SESSIONS } from './constants.ts';
import { closeErrorOf, closeFrame, fail } from './errors.ts';
import { encodeControl } from '../wire/link/encode.ts';
import { LaneConnection } from './lane-connection.ts';
import { openRelayedRoute, type RelayAddress, type RelayedRoute } from './relay/listen.ts';
import { SessionCore, type SessionOptions } from './session.ts';
import { checkSocketPath, serveTls, siteIdOf, type TlsMaterial } from './tls.ts';
import type { LinkSession } from './types.ts';

export interface LinkListenerOptions {
  /** Unix socket to listen on, below the gateway's directory: `<runtimeDir>/link/<route>.sock`. */
  socketPath: string;
  tls: TlsMaterial;
  /** Connections come through this relay as well, for `route`. */
  relay?: { address: RelayAddress; route: string } | undefined;
  /** Connections that were refused, for the log. */
  onRefused?: (error: Error) => void;
}

/** TLS server on a Unix socket that gives connections to the sessions that were announced with `accept`. */
export class LinkListener implements AsyncDisposable {
  readonly #options: LinkListenerOptions;
  readonly #server: Server;
  readonly #siteId: string;
  readonly #sessions = new Map<string, SessionCore>();
  readonly #sockets = new Set<TLSSocket>();
  #relayed: RelayedRoute | undefined;

  private constructor(options: LinkListenerOptions) {
    this.#options = options;
    this.#siteId = siteIdOf(options.tls.cert);
    this.#server = serveTls({
      tls: options.tls,
      onConnection: (socket, peerSiteId) => this.#connection(socket, peerSiteId),
      refusal: (error) => encodeControl(closeFrame(CLOSE_REASON.WRONG_PEER, error)),
      onRefused: options.onRefused,
    });
  }

  /** @throws LINK_PATH_TOO_LONG, and what listening throws. An abandoned socket file is replaced. */
  static async listen(options: LinkListenerOptions): Promise<LinkListener> {
    const listener = new LinkListener(options);
    await unlink(checkSocketPath(options.socketPath)).catch(() => {});
    listener.#server.listen(options.socketPath);
    await once(listener.#server, 'listening');
    if (options.relay) {
      listener.#relayed = openRelayedRoute({
        ...options.relay,
        tls: options.tls,
        onSocket: (socket) => void listener.#server.emit('connection', socket),
        onFailed: options.onRefused,
      });
    }
    return listener;
  }

  /** Announces a session: the dialling side may connect from now on. Returns at once; see LinkSession.opened. */
  accept(options: Omit<SessionOptions, 'siteId'>): LinkSession {
    if (this.#sessions.size >= MAX_SESSIONS) throw fail('LINK_OVERLOAD', `${MAX_SESSIONS} sessions`);
    if (this.#sessions.has(options.sessionId))
      throw fail('LINK_CONFIG', `session ${options.sessionId} exists`);
    const session = new SessionCore({ ...options, siteId: this.#siteId });
    this.#sessions.set(options.sessionId, session);
    const end = (): void => {
      this.#sessions.delete(options.sessionId);
    };
    session.closed.then(end, end);
    return session;
  }

  #connection(socket: TLSSocket, peerSiteId: string): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    const timer = setTimeout(
      () => connection.destroy(fail('LINK_TIMEOUT', 'no HELLO in time')),
      HANDSHAKE_TIMEOUT_MS,
    );
    const connection = new LaneConnection(socket, peerSiteId, {
      hello: (hello) => {
        clearTimeout(timer);
        this.#hello(connection, hello);
      },
      data: () => {},
      piece: () => {},
      control(frame) {
        if (frame.kind === 'close') connection.destroy(closeErrorOf(frame));
      },
      ended: (cause) => {
        clearTimeout(timer);
        this.#options.onRefused?.(cause);
      },
    });
  }

  #hello(connection: LaneConnection, hello: HelloFrame): void {
    const session = this.#sessions.get(hello.sessionId);
    const refusal = session
      ? session.refusal(hello, connection.peerSiteId)
      : { reason: CLOSE_REASON.SESSION_UNKNOWN, error: fail('LINK_SESSION_UNKNOWN', hello.sessionId) };
    if (refusal) connection.refuse(refusal.reason, refusal.error);
    if (refusal || !session) return;
    session.replace(hello.lane);
    // whatever listens to the session may have ended it just now
    if (session.state === 'closed') {
      connection.refuse(CLOSE_REASON.SESSION_UNKNOWN, fail('LINK_SESSION_UNKNOWN', hello.sessionId));
      return;
    }
    connection.writeControl(session.helloFor(hello.lane));
    try {
      session.attach(connection, hello);
    } catch (cause) {
      session.attemptFailed(cause as Error, true);
    }
  }

  /** Stops listening; sessions still open are aborted. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions.values())
      session.abort(fail('LINK_CLOSED', 'the listener was closed'));
    await this.#relayed?.[Symbol.asyncDispose]();
    // those that came through a relay the server does not count
    const ended = [...this.#sockets].map((socket) => once(socket, 'close'));
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    const timer = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy();
    }, CLOSE_LINGER_MS);
    await Promise.all([closed, ...ended]);
    clearTimeout(timer);
  }
}

/** One session behind a socket of its own, which goes away with it. */
export async function acceptLink(
  options: LinkListenerOptions & Omit<SessionOptions, 'siteId'>,
): Promise<LinkSession> {
  const listener = await LinkListener.listen(options);
  const session = listener.accept(options);
  const end = (): void => void listener[Symbol.asyncDispose]();
  session.closed.then(end, end);
  return session;
}
