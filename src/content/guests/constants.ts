/** Every time stamp inside built guests (15 June 2025), so that equal inputs give equal images. */
export const GUEST_EPOCH_S = 1_750_000_000;
/** Fixed identity of the built file systems, for the same reason. */
export const GUEST_FILESYSTEM_UUID = '6b1d7c52-0d4e-4f0a-9c7e-0c10dd0a9e57';
/** How long one builder program may stay silent and run, in all. */
export const BUILD_STEP_TIMEOUT_MS = 30 * 60_000;
/** After SIGTERM a builder program has this long to clean up before it is killed. */
export const BUILD_KILL_AFTER_MS = 10_000;
/** The end of a builder program's output that is kept for the error message. */
export const BUILD_OUTPUT_KEPT_BYTES = 4000;
/** Largest initial RAM disk that is written (the real ones have 2 to 4 MB). */
export const MAX_INITRAMFS_BYTES = 64 * 1024 * 1024;
/** How often the size of a growing download is looked at. */
export const DOWNLOAD_POLL_MS = 250;
/** Package lists younger than this are taken as they are. */
export const PACKAGE_LIST_MAX_AGE_MS = 7 * 24 * 3600_000;
/** How often a waiting builder looks whether the other has ended. */
export const LOCK_POLL_MS = 200;
