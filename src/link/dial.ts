import { sleep } from '../base/async.ts';
import { errorCode } from '../base/errors.ts';
import { monotonicMs } from './clock.ts';
import {
  ATTEMPT_TIMEOUT_MS,
  BACKOFF_MAX_MS,
  BACKOFF_MIN_MS,
  FIRST_LOOK_PAUSE_MS,
  FIRST_LOOKS_MS,
  HANDSHAKE_TIMEOUT_MS,
} from './constants.ts';
import { closeErrorOf, fail, isFatal } from './errors.ts';
import { LaneConnection } from './lane-connection.ts';
import { dialPeer } from './relay/dial.ts';
import { SessionCore, type SessionOptions } from './session.ts';
import { type DialTlsOptions, siteIdOf } from './tls.ts';
import type { Lane, LinkSession } from './types.ts';

export type DialLinkOptions = Omit<SessionOptions, 'siteId'> &
  Pick<DialTlsOptions, 'address' | 'route' | 'tls'> & { expectedPeer: string };

/**
 * Opens a session to another site and keeps it connected: each lane is dialled again, with growing pauses, until
 * the session ends. Returns at once; see LinkSession.opened.
 * `address` is the gateway of the other site or, with `relay`, of one that passes it on, or without `route` the listener itself.
 * The session fails with LINK_UNREACHABLE (never connected), LINK_LOST, LINK_TLS, LINK_PEER_IDENTITY,
 * LINK_SESSION_UNKNOWN, LINK_CANNOT_RESUME, LINK_PROTOCOL, LINK_PEER_ABORTED.
 */
export function dialLink(options: DialLinkOptions): LinkSession {
  const session = new SessionCore({ ...options, siteId: siteIdOf(options.tls.cert) });
  const stop = new AbortController();
  const end = (): void => stop.abort(fail('LINK_CLOSED'));
  session.closed.then(end, end);
  for (const lane of ['urgent', 'bulk'] as const) void keepConnected(session, lane, options, stop.signal);
  return session;
}

async function keepConnected(
  session: SessionCore,
  lane: Lane,
  options: DialLinkOptions,
  signal: AbortSignal,
): Promise<void> {
  let pauseMs = BACKOFF_MIN_MS;
  const beganMs = monotonicMs();
  while (!signal.aborted) {
    try {
      const startedMs = monotonicMs();
      await runConnection(session, lane, options, signal);
      // a connection that held for a while starts the pauses anew
      pauseMs =
        monotonicMs() - startedMs > BACKOFF_MAX_MS ? BACKOFF_MIN_MS : Math.min(BACKOFF_MAX_MS, pauseMs * 2);
    } catch (error) {
      if (signal.aborted) return;
      session.attemptFailed(error as Error, isFatal(error));
      const isEarly = session.state === 'connecting' && monotonicMs() - beganMs < FIRST_LOOKS_MS;
      if (isEarly && errorCode(error) === 'LINK_NO_ROUTE') {
        await sleep(FIRST_LOOK_PAUSE_MS, signal).catch(() => {});
        continue;
      }
      pauseMs = Math.min(BACKOFF_MAX_MS, pauseMs * 2);
    }
    await sleep(pauseMs / 2 + (Math.random() * pauseMs) / 2, signal).catch(() => {});
  }
}

/** One connection of a lane, from dialling to its end. Resolves when it was attached and has ended; rejects if it never was. */
async function runConnection(
  session: SessionCore,
  lane: Lane,
  options: DialLinkOptions,
  signal: AbortSignal,
): Promise<void> {
  const { address, route, tls, expectedPeer } = options;
  const socket = await dialPeer({ address, route, tls, expectedPeer, signal, timeoutMs: ATTEMPT_TIMEOUT_MS });
  const gone = new Promise<void>((resolve) => {
    socket.once('close', () => resolve());
  });
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(
      () => connection.destroy(fail('LINK_TIMEOUT', 'no HELLO in time')),
      HANDSHAKE_TIMEOUT_MS,
    );
    const onAbort = (): void => connection.destroy(signal.reason as Error);
    const done = (error?: Error): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      if (error) reject(error);
      else resolve();
    };
    const connection = new LaneConnection(socket, expectedPeer, {
      hello(frame) {
        if (frame.lane !== lane) throw fail('LINK_PROTOCOL', `HELLO for the ${frame.lane} lane`);
        const refusal = session.refusal(frame, connection.peerSiteId);
        if (refusal) {
          connection.refuse(refusal.reason, refusal.error);
          return;
        }
        try {
          session.attach(connection, frame);
          done();
        } catch (cause) {
          done(cause as Error);
        }
      },
      data: () => {},
      piece: () => {},
      control(frame) {
        if (frame.kind === 'close') connection.destroy(closeErrorOf(frame));
      },
      ended: done,
    });
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
    connection.writeControl(session.helloFor(lane));
  });
  await gone;
}
