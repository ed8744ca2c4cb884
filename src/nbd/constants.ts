import { NBD_MAX_REQUEST_BYTES } from '../wire/nbd/constants.ts';

/** How long option haggling may take on either side, ms; QEMU on the same machine needs about one. */
export const NBD_HANDSHAKE_TIMEOUT_MS = 10_000;
/** Most options that a client may send before it goes to transmission. */
export const NBD_MAX_OPTIONS = 256;
/** Most option replies that a server may send during one handshake (LIST answers with one for each export). */
export const NBD_MAX_OPTION_REPLIES = 4096;
/** Most connections of one server; further ones are closed at once. */
export const NBD_SERVER_MAX_CONNECTIONS = 64;
/** Most requests of one connection being answered; beyond it the server stops reading the socket. QEMU sends 16. */
export const NBD_SERVER_MAX_IN_FLIGHT_REQUESTS = 128;
/**
 * Most bytes of one connection being read, written or waiting to be taken by the client; beyond it the server stops
 * reading the socket. One request may go over it, so a connection holds at most this and two requests.
 */
export const NBD_SERVER_MAX_IN_FLIGHT_BYTES = 2 * NBD_MAX_REQUEST_BYTES;
/** How long `close` waits for requests in flight before it drops the connection, ms. */
export const NBD_SERVER_DRAIN_TIMEOUT_MS = 10_000;
/** Most requests that a client session has on the wire; further ones wait in its queue. */
export const NBD_CLIENT_MAX_IN_FLIGHT_REQUESTS = 64;
/** Most bytes to be read or written by requests on the wire; one request may go over it when it is alone. */
export const NBD_CLIENT_MAX_IN_FLIGHT_BYTES = 2 * NBD_MAX_REQUEST_BYTES;
/** Most requests waiting in a client session; a further one fails with NBD_QUEUE_FULL. */
export const NBD_CLIENT_MAX_QUEUED_REQUESTS = 4096;
/** Most extents that one `blockStatus` call collects. */
export const NBD_CLIENT_MAX_EXTENTS = 2 ** 22;
/** Longest range of one TRIM, WRITE_ZEROES or BLOCK_STATUS request: 32 bits, a multiple of every block size. */
export const NBD_MAX_RANGE_BYTES = 2 ** 32 - 65_536;
/** How long `disconnect` waits for the server to close the connection, ms. */
export const NBD_DISCONNECT_TIMEOUT_MS = 5_000;
/** Replies up to this size are copied together, so that those of one tick leave in one system call. */
export const NBD_COALESCE_BYTES = 32 * 1024;
/** Longest path of a Unix socket (`sun_path` of Linux without its terminating zero). */
export const NBD_MAX_SOCKET_PATH_BYTES = 107;
