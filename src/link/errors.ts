import { CloudapError, errorCatalogue, errorCode } from '../base/errors.ts';
import { CLOSE_REASON, type CloseFrame, type CloseReason } from '../wire/link/frames.ts';
import { fail as failFrame } from '../wire/link/errors.ts';

export const fail = errorCatalogue({
  LINK_CLOSED: {
    summary: 'the link session is closed',
    remedy: 'The migration that it belonged to has ended; `cloudap migrate --ls` shows how.',
  },
  LINK_LOST: {
    summary: 'the link to the other site was cut for too long',
    remedy: 'Check the network between the sites; before the switch the VM goes on at the source.',
  },
  LINK_UNREACHABLE: {
    summary: 'the other site cannot be reached',
    remedy:
      'Check its address and port, its gateway process and firewalls; the message holds the last attempt.',
  },
  LINK_PEER_ABORTED: {
    summary: 'the other side gave the link session up',
    remedy: 'The message holds its reason; see its log.',
  },
  LINK_PEER_IDENTITY: {
    summary: 'the certificate of the other side is not the one of the expected site',
    remedy: 'Check that the address belongs to that site and that its certificate was issued by this center.',
  },
  LINK_PEER_REVOKED: {
    summary: 'the other side is not let in any more, or not yet',
    remedy:
      'If it should be, enrol it again: `cloudap center token` at the center, `cloudap enrol` there. `cloudap center nodes` shows whose certificates are good.',
  },
  LINK_TLS: {
    summary: 'no trusted TLS connection to the other side',
    remedy: 'Both sites need certificates of the same center; check `ca.pem` and the site certificate.',
  },
  LINK_SESSION_UNKNOWN: {
    summary: 'the other side does not know this session',
    remedy: 'It has ended there, or its process was restarted; start the migration again.',
  },
  LINK_CANNOT_RESUME: {
    summary: 'the session cannot go on after a cut',
    remedy: 'The process at the other side was replaced; start the migration again.',
  },
  LINK_PROTOCOL: {
    summary: 'the other side refused a frame or sent a wrong one',
    remedy: 'Check that both sites run the same CloudAP version; if they do, report it with both logs.',
  },
  LINK_FLOODED: {
    summary: 'the other side sent more than it was given credit for',
    remedy: 'Check that both sites run the same CloudAP version; if they do, report it with both logs.',
  },
  LINK_OVERLOAD: {
    summary: 'too many messages wait to be sent',
    remedy: 'This is a defect in CloudAP (a sender that does not wait); report it with the log.',
  },
  LINK_HANDLER_FAILED: {
    summary: 'a message could not be processed',
    remedy: 'The message holds the cause; the log of the process that says so has more.',
  },
  LINK_CLOSE_TIMEOUT: {
    summary: 'the other side did not acknowledge everything in time',
    remedy: 'Check the link and the load of the other site.',
  },
  LINK_NO_ROUTE: {
    summary: 'the gateway of the other site has nothing behind this route',
    remedy: 'The process that should serve it is not running (yet) at that site.',
  },
  LINK_GATEWAY_BUSY: {
    summary: 'the gateway of the other site has too many connections',
    remedy: 'Wait and try again; if it stays, find out who opens connections to its port.',
  },
  LINK_GATEWAY_REFUSED: {
    summary: 'the gateway of the other site refused the connection',
    remedy: 'Check that both sites run the same CloudAP version and that the port is the one of its gateway.',
  },
  LINK_TIMEOUT: {
    summary: 'no answer from the other site in time',
    remedy: 'Check the network, and that the agent and the gateway of the other site run.',
  },
  LINK_CONNECTION_LOST: {
    summary: 'a connection was lost',
    remedy: 'It is made again by itself while the session allows; check the network if it stays away.',
  },
  LINK_RELAY_UNKNOWN: {
    summary: 'the other site does not wait for connections at this relay',
    remedy:
      'Its process has ended, or cannot reach the relay; `cloudap site ls` there shows how it is connected.',
  },
  LINK_RELAY_BUSY: {
    summary: 'this site asks the relay for too much at once',
    remedy: 'Wait and try again; if it stays, look for a process of this site that dials without end.',
  },
  LINK_CONFIG: {
    summary: 'the settings of a link process are not valid',
    remedy: 'Correct the field that the message names.',
  },
  LINK_PATH_TOO_LONG: {
    summary: 'the path of a socket is longer than the 107 bytes that the system allows',
    remedy: 'Use a shorter runtime directory.',
  },
  LINK_SPEC: {
    summary: 'a link description is not valid',
    remedy: 'Write it like `rate=100mbit,rtt=10ms,jitter=1ms`.',
  },
  LINK_PKI: {
    summary: 'certificates cannot be read or made',
    remedy: 'Check the directory and its files; the message names them.',
  },
  RPC_BAD_MESSAGE: {
    summary: 'the peer sent a line that is no valid message',
    remedy: 'Check that both sides run the same CloudAP version.',
  },
  RPC_LINE_TOO_LONG: {
    summary: 'a message is longer than the control channel allows',
    remedy: 'Ask for less at once; the limit is RPC_MAX_LINE_BYTES (docs/LIMITS.md).',
  },
  RPC_OVERLOAD: {
    summary: 'too many calls at once',
    remedy: 'Wait for answers before calling more.',
  },
  RPC_NO_METHOD: {
    summary: 'the peer does not know this method',
    remedy: 'Check that both sides run the same CloudAP version.',
  },
  RPC_TIMEOUT: {
    summary: 'the peer did not answer a call in time',
    remedy: 'Check the peer and the link to it.',
  },
  RPC_CLOSED: {
    summary: 'the control connection is closed',
    remedy: 'See why it ended; it is dialled again.',
  },
});

/** True if trying again cannot help: wrong certificates, refused sessions, broken protocol. */
export function isFatal(error: unknown): boolean {
  return error instanceof CloudapError && FATAL.has(error.code);
}

const FATAL: ReadonlySet<string> = new Set([
  'LINK_PEER_IDENTITY',
  'LINK_TLS',
  'LINK_PEER_REVOKED',
  'LINK_SESSION_UNKNOWN',
  'LINK_CANNOT_RESUME',
  'LINK_PROTOCOL',
  'LINK_PEER_ABORTED',
  'LINK_VERSION',
  'LINK_BAD_FRAME',
  'LINK_MESSAGE_TOO_LARGE',
  'LINK_FLOODED',
  'LINK_PATH_TOO_LONG',
  'LINK_CONFIG',
  'LINK_BAD_ARGUMENT',
]);

export { failFrame };

/** What a peer's CLOSE (not an orderly one) means at this side. */
export function closeErrorOf(frame: { reason: number; code: string; text: string }): CloudapError {
  const options = { fields: { peerCode: frame.code, peerMessage: frame.text, reason: frame.reason } };
  const detail = frame.code === '' ? frame.text : `${frame.code}: ${frame.text}`;
  switch (frame.reason) {
    case CLOSE_REASON.VERSION:
      return failFrame('LINK_VERSION', detail, options);
    case CLOSE_REASON.SESSION_UNKNOWN:
      return fail('LINK_SESSION_UNKNOWN', detail, options);
    case CLOSE_REASON.WRONG_PEER:
      if (frame.code === 'LINK_TLS' || frame.code === 'LINK_PEER_REVOKED')
        return fail(frame.code, frame.text, options);
      return fail('LINK_PEER_IDENTITY', frame.text, options);
    case CLOSE_REASON.CANNOT_RESUME:
      return fail('LINK_CANNOT_RESUME', detail, options);
    case CLOSE_REASON.PROTOCOL:
      return fail('LINK_PROTOCOL', detail, options);
    default:
      return fail('LINK_PEER_ABORTED', detail, options);
  }
}

export function closeFrame(reason: CloseReason, error: Error): CloseFrame {
  return { kind: 'close', reason, code: errorCode(error), text: error.message };
}

/** The reason to give a peer that broke the protocol; undefined if the connection was just lost. */
export function violationReason(cause: Error): CloseReason | undefined {
  const code = errorCode(cause);
  if (code === 'LINK_CONNECTION_LOST' || code === 'LINK_TIMEOUT') return undefined;
  return code === 'LINK_VERSION' ? CLOSE_REASON.VERSION : CLOSE_REASON.PROTOCOL;
}
