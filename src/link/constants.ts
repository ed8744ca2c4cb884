/** A PING goes out this often on each connection; the first few follow each other at once, for the clock offset. */
export const PING_INTERVAL_MS = 500;
/** Number of PINGs right after a connection was made. */
export const PING_BURST = 4;
/** A connection on which nothing arrived for this long is cut: a dead WAN shows no other sign. */
export const SILENCE_MS = 3_000;
/** How long a cut may last before LINK_LOST, unless setLossTimeout says otherwise. */
export const LOSS_TIMEOUT_MS = 20_000;
/** How long the first connection may take in all, retries included. */
export const CONNECT_TIMEOUT_MS = 15_000;
/** How long one attempt to connect (TCP, gateway, TLS, HELLO) may take. */
export const ATTEMPT_TIMEOUT_MS = 4_000;
/** First and longest pause between attempts to reconnect; each pause doubles the one before. */
export const BACKOFF_MIN_MS = 50;
export const BACKOFF_MAX_MS = 2_000;
/**
 * The other end of a session is often still being made when it is first looked for: so long it is asked for after short
 * pauses, since a switch waits for it.
 */
export const FIRST_LOOKS_MS = 2_000;
export const FIRST_LOOK_PAUSE_MS = 15;
/** How long close() waits for acknowledgements by default. */
export const CLOSE_TIMEOUT_MS = 10_000;
/** How long an end of the session lingers so that its CLOSE gets out. */
export const CLOSE_LINGER_MS = 500;

/** Urgent bytes kept unacknowledged before senders wait. */
export const URGENT_PENDING_BYTES = 16 * 1024 * 1024;
/** Bulk bytes that may wait for the far handler, on top of the window: keeps its handler busy, bounds its memory. */
export const BULK_BACKLOG_BYTES = 1024 * 1024;
/** Calls of send() that may wait on a lane; more is a defect of the caller. */
export const MAX_WAITING_SENDS = 4_096;
/** What one lane of a peer may have received and not handled; a peer that goes beyond it breaks the protocol. */
export const MAX_UNHANDLED_BYTES = 64 * 1024 * 1024;
/** Messages (of whatever size) that a peer may have waiting for a handler. */
export const MAX_UNHANDLED_MESSAGES = 65_536;

/** Bulk window: smallest, first and largest. 32 MiB is 10 Gbit/s at 26 ms. */
export const WINDOW_MIN_BYTES = 4 * 1024;
export const WINDOW_START_BYTES = 16 * 1024;
export const WINDOW_MAX_BYTES = 32 * 1024 * 1024;
/** What the window holds beyond bandwidth x minimal round trip: the queue that an urgent message may find. */
export const QUEUE_TARGET_MS = 4;
/** How far the allowance for delay that is no queue (jitter, scheduling) may grow. */
export const SLACK_MAX_MS = 40;
/** The most that bursts of acknowledgements may add to the window, as time at the link's rate. */
export const AGGREGATION_MAX_MS = 10;
/** The delivery rate is the largest of this many round trips. */
export const RATE_FILTER_ROUNDS = 10;
/** The minimal round trip is measured anew, with an empty queue, when it has not been seen for this long. */
export const MIN_RTT_EXPIRY_MS = 10_000;
/** Every so many round trips the window is raised for one, to see whether the link gives more. */
export const PROBE_EVERY_ROUNDS = 8;
/** Smallest piece in which bulk is sent: what fills a packet. */
export const FRAGMENT_MIN_BYTES = 1400;

/** Gateway: connections at once, time for the preamble and for reaching the route. */
export const GATEWAY_MAX_CONNECTIONS = 1_024;
export const GATEWAY_PREAMBLE_TIMEOUT_MS = 5_000;
/** Connections to a listener at once (two a session, and those not authenticated yet), and how long TLS and HELLO may take. */
export const MAX_LISTENER_CONNECTIONS = 576;
export const HANDSHAKE_TIMEOUT_MS = 5_000;
/** Sessions registered with one listener. */
export const MAX_SESSIONS = 256;

/** Relay: how long its two connections may take to meet. */
export const RELAY_TICKET_MS = 4_000;
/** Calls and tickets of one dialling site that wait for their connections, and routes that one site has open. */
export const RELAY_TICKETS_MAX = 128;
export const RELAY_ROUTES_MAX = 64;
/** How long a site that dials waits at the relay for the other one to be there. */
export const RELAY_WAIT_MS = 2_000;
/** How long a site may take to open its route at a relay. */
export const RELAY_OPEN_TIMEOUT_MS = 5_000;

/** RPC: longest line, calls waiting for an answer, calls being handled, and the default time for a call. */
export const RPC_MAX_LINE_BYTES = 1024 * 1024;
export const RPC_MAX_PENDING = 1_024;
export const RPC_MAX_HANDLING = 256;
export const RPC_TIMEOUT_MS = 30_000;
/** An agent's connection is checked this often and given up after this much silence. */
export const RPC_PING_INTERVAL_MS = 2_000;
export const RPC_SILENCE_MS = 10_000;

/** Emulator: what the bottleneck's queue holds when the specification does not say. */
export const EMULATOR_QUEUE_MS = 50;
export const EMULATOR_QUEUE_MIN_BYTES = 64 * 1024;

/** The file of peers that are let in: 100 bytes a node. */
export const PEERS_FILE_MAX_BYTES = 4 * 1024 * 1024;
/** How soon a connection of a peer that is no longer let in ends. */
export const PEERS_WATCH_MS = 250;
