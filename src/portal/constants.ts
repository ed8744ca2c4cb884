/** Before every path of the API. */
export const API_PREFIX = '/api/v1';

/** Connections to the API at once, by socket and by HTTPS. */
export const PORTAL_CONNECTIONS_MAX = 1_024;
/** Largest body of a request. */
export const PORTAL_BODY_MAX_BYTES = 64 * 1024;
/** Requests of one address within a minute. */
export const PORTAL_REQUESTS_PER_MINUTE = 1_200;

/** Records in one answer, unless asked otherwise, and at most. */
export const PAGE_ITEMS = 200;
export const PAGE_ITEMS_MAX = 1_000;

/** How long a session lasts, and a token of a machine at most. */
export const SESSION_TTL_MS = 12 * 60 * 60 * 1000;
export const API_TOKEN_TTL_MS = 90 * 24 * 60 * 60 * 1000;
export const API_TOKEN_TTL_MAX_MS = 366 * 24 * 60 * 60 * 1000;
/** Sessions and tokens of one user. */
export const CREDENTIALS_PER_USER = 100;

export const PASSWORD_MIN_CHARS = 10;
export const PASSWORD_MAX_CHARS = 256;
/** Passwords that are hashed at once: each takes 19 MiB and 30 ms of a core. */
export const HASHES_AT_ONCE = 2;
export const HASHES_WAITING_MAX = 64;
/** So many wrong passwords for a user or from an address within the time shut that user or address out for the rest of it. */
export const LOGIN_FAILURES_MAX = 10;
export const LOGIN_WINDOW_MS = 15 * 60 * 1000;

/** Events that are kept for those who come back, and bytes that one listener may be behind. */
export const EVENTS_REMEMBERED = 1_000;
export const EVENT_BACKLOG_MAX_BYTES = 1024 * 1024;
export const EVENT_LISTENERS_MAX = 256;
/** A comment, so that a connection that is gone is noticed. */
export const EVENT_KEEPALIVE_MS = 15_000;

/** Tasks that are under way or remembered. */
export const TASKS_KEPT = 1_000;
/** Longest time that a request may wait for a task. */
export const TASK_WAIT_MAX_MS = 120_000;
