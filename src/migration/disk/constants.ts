/** Pulls that the source keeps waiting; more is a protocol error (the target keeps to MAX_PULL_SECTORS_IN_FLIGHT). */
export const MAX_SOURCE_PULLS = 16_384;
/** Pulls that the source reads and answers at the same time. */
export const PULL_WORKERS = 4;
/** Sectors (64 MiB) that the target has asked for and not received; further pulls wait their turn at the target. */
export const MAX_PULL_SECTORS_IN_FLIGHT = 16_384;
/** Packed bytes that wait to be landed; the link's credits keep it far below. */
export const MAX_REPLAY_QUEUE_BYTES = 256 * 1024 * 1024;
/** Packed pushes that may wait to be landed before the bulk lane is held up, so that network and disk work side by side. */
export const REPLAY_SLACK_BYTES = 4 * 1024 * 1024;
/** Content that frames refer to and that waits to be landed: what pulls may ask for, and the same again for pushes. */
export const MAX_LOADING_BYTES = 128 * 1024 * 1024;
/** Pulls for what the target did not have although it was referred to, after which the source refers to nothing more. */
export const MAX_CONTENT_MISSES = 32;
/** Messages that wait to be landed. */
export const MAX_REPLAY_QUEUE_FRAMES = 65_536;
/** Damaged frames without a sound one in between, after which asking again is given up. */
export const MAX_BAD_IN_A_ROW = 64;
/** Largest read that the target serves (the NBD server has a limit of its own). */
export const MAX_READ_BYTES = 64 * 1024 * 1024;

/** The poller's pause while it finds new clusters, and the longest one when it does not. */
export const POLL_MIN_INTERVAL_MS = 250;
export const POLL_MAX_INTERVAL_MS = 4_000;
