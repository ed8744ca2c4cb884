import { errorCatalogue } from '../../base/errors.ts';

export const fail = errorCatalogue({
  NBD_BAD_MAGIC: {
    summary: 'the peer does not speak NBD',
    remedy: 'Check that the address is that of an NBD server or client, without TLS.',
  },
  NBD_BAD_FRAME: {
    summary: 'the NBD peer sent something that the protocol does not allow',
    remedy: 'The peer is defective or not what it seems; the message says which rule it broke.',
  },
  NBD_TOO_LARGE: {
    summary: 'the NBD peer announced more than the limit',
    remedy: 'The connection was ended before anything was buffered; docs/LIMITS.md lists the limits.',
  },
  NBD_REQUEST_FAILED: {
    summary: 'the NBD server answered a request with an error',
    remedy: 'The message holds the server’s error; its log may say more.',
  },
});
