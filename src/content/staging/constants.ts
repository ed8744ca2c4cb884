/** A manifest, and with it every control message of a push, is shorter than this. */
export const MAX_STAGE_CONTROL_BYTES = 16 * 1024;
/** Files that one artefact has at most. */
export const ARTEFACT_FILES_MAX = 16;
/** Zeros of a file that are looked through before a message says so: progress moves on. */
export const ZERO_RUN_BYTES = 64 * 1024 * 1024;
/** What has arrived is made durable and noted after so many bytes: no more than that is sent twice. */
export const JOURNAL_BYTES = 8 * 1024 * 1024;
/** Parts of artefacts that never became whole are removed after this time, and when there are more than so many. */
export const PARTS_MAX_AGE_MS = 7 * 24 * 3600 * 1000;
export const PARTS_MAX = 8;
/** Disk space that stays free where artefacts arrive: a full site helps nobody. */
export const STAGE_RESERVE_BYTES = 256 * 1024 * 1024;
/** How long the end of a push waits until the other side has heard of it. */
export const STAGE_CLOSE_TIMEOUT_MS = 5_000;
