import { errorCatalogue } from '../base/errors.ts';

export const fail = errorCatalogue({
  NBD_LISTEN_FAILED: {
    summary: 'the NBD server cannot listen',
    remedy: 'Check the socket path (at most 107 bytes, folder writable) and that nothing else uses it.',
  },
  NBD_CONNECT_FAILED: {
    summary: 'no connection to the NBD server',
    remedy: 'Check that the server runs and that its socket may be opened.',
  },
  NBD_HANDSHAKE_TIMEOUT: {
    summary: 'the NBD handshake took too long',
    remedy: 'The peer is stuck or not an NBD peer; check what listens at the address.',
  },
  NBD_EXPORT_UNKNOWN: {
    summary: 'the NBD server does not have this export',
    remedy: 'List the exports of the server and use one of their names.',
  },
  NBD_OPTION_REFUSED: {
    summary: 'the NBD server refused an option',
    remedy: 'The message holds the option and the server’s reason.',
  },
  NBD_CONTEXT_UNKNOWN: {
    summary: 'the NBD export does not offer this meta context',
    remedy: 'Ask for it when connecting; qemu-nbd needs -A for the allocation depth, -B for a dirty bitmap.',
  },
  NBD_CONNECTION_LOST: {
    summary: 'the NBD connection ended',
    remedy: 'The peer ended or was killed; connect again.',
  },
  NBD_CLOSED: {
    summary: 'the NBD session is closed',
    remedy: 'It was ended on this side; open a new one.',
  },
  NBD_RANGE: {
    summary: 'the range does not fit the NBD export',
    remedy: 'Keep within the size of the export, its block size and the request limit.',
  },
  NBD_UNSUPPORTED: {
    summary: 'the NBD export cannot do this',
    remedy: 'The server did not offer the command; a read-only export takes no writes.',
  },
  NBD_QUEUE_FULL: {
    summary: 'too many NBD requests are waiting',
    remedy: 'Await earlier requests first; docs/LIMITS.md lists the limit.',
  },
  NBD_BACKEND: {
    summary: 'what an NBD export serves does not keep its promise',
    remedy: 'This is a defect of the backend; report it with the log.',
  },
});
