/** How long a token that nobody uses is good, unless said otherwise, and at most. */
export const TOKEN_TTL_MS = 60 * 60 * 1000;
export const TOKEN_TTL_MAX_MS = 30 * 24 * 60 * 60 * 1000;

/** Tokens that may be open at once; used and expired ones give way. */
export const TOKENS_MAX = 10_000;

/** Largest text that can be a token, and largest body of a request to enrol. */
export const TOKEN_MAX_CHARS = 2_048;
export const ENROL_BODY_MAX_BYTES = 16 * 1024;

/** Requests that one address may make within a minute, and all connections at once. */
export const ENROL_REQUESTS_PER_MINUTE = 60;
export const ENROL_CONNECTIONS_MAX = 256;

/** A request to enrol or to renew. */
export const ENROL_TIMEOUT_MS = 15_000;

/** How often a node looks whether it is time to renew its certificate. */
export const RENEWAL_LOOK_MS = 60 * 60 * 1000;

/** The share of a certificate's life after which it is renewed. */
export const RENEW_AFTER = 2 / 3;
