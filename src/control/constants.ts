/** A host says that it lives this often. */
export const HEARTBEAT_MS = 2_000;

/** A host that has been silent for so long counts as gone: two heartbeats have not come, and the third is about due. */
export const SILENT_AFTER_MS = 2.5 * HEARTBEAT_MS;

/** Largest message of the control plane, request, answer or record; NATS itself refuses above 1 MiB. */
export const MESSAGE_MAX_BYTES = 256 * 1024;

/** An ordinary request to another agent. */
export const REQUEST_TIMEOUT_MS = 10_000;

/** Answers that a server of requests remembers, so that the same request again gets the same answer. */
export const ANSWERS_KEPT = 10_000;

/** Requests that one server works on at once; more are refused, not queued. */
export const REQUESTS_UNDER_WAY_MAX = 1_000;

/** Events that the stream keeps, and for how long. */
export const EVENTS_KEPT = 100_000;
export const EVENTS_KEPT_MS = 7 * 24 * 60 * 60 * 1000;

/** How long a presence message may wait for a center; older ones say nothing any more. */
export const PRESENCE_KEPT_MS = 60 * 60 * 1000;

/** Within this time the same presence message counts once. */
export const DEDUPE_WINDOW_MS = 2 * 60 * 1000;

/** How long `nats-server` may take to start and to load its streams. */
export const NATS_START_TIMEOUT_MS = 20_000;

/** How long a first connection to the control plane may take before a command gives up; agents go on trying. */
export const CONNECT_TIMEOUT_MS = 5_000;

/** Pause between two attempts to connect again. */
export const RECONNECT_WAIT_MS = 500;

/** Names in lists (images, templates, links) of one record. */
export const LIST_MAX = 1_024;

/** One attempt of an operation on a bucket; a server that is being restarted swallows what was under way. */
export const STORE_TIMEOUT_MS = 2_000;

/** Attempts of an operation on a bucket before it fails. */
export const STORE_ATTEMPTS = 5;

/** How long `nats-server` may take to read its configuration again. */
export const NATS_RELOAD_TIMEOUT_MS = 10_000;

/** A nats-server of ours that has ended is noticed, and one that starts is asked whether it is ready, this often. */
export const NATS_WATCH_MS = 250;
export const NATS_POLL_MS = 20;

/** A record whose message has been seen is looked for so often, first after so long and twice as long each time. */
export const SETTLE_ATTEMPTS = 7;
export const SETTLE_MS = 2;

/** Records that an agent asks for at once. */
export const AT_ONCE_MAX = 32;
