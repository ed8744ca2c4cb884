/** Version of the disk messages; refused when the other side speaks another one. */
export const DISK_VERSION = 3;
/** Unit of the block bitmap. */
export const SECTOR_BYTES = 4096;
/** Largest overlay file: 2^30 sectors, bitmaps of 128 MiB. */
export const MAX_FILE_BYTES = 2 ** 30 * SECTOR_BYTES;
/** Most data in one push or answer to a pull: small, so that an urgent frame never waits behind a long one. */
export const MAX_EXTENT_BYTES = 64 * 1024;
/** Most sectors in a frame that says they are all zeros (16 MiB): it carries no bytes. */
export const MAX_ZERO_SECTORS = 4096;
/**
 * Most sectors in a frame that names content (256 KiB): with nothing to send but names it spans more than one with bytes,
 * and the target has read and hashed them within half a millisecond, so that a pull does not wait for long.
 */
export const MAX_CONTENT_SECTORS = 64;
/** Most data in one metadata frame. */
export const MAX_METADATA_EXTENT_BYTES = 256 * 1024;
/** Most metadata sent ahead of the switch-over package; L2 tables beyond it are pulled or pushed like data. */
export const MAX_METADATA_BYTES = 64 * 1024 * 1024;
/** Most data of metadata that goes before the freeze, to be kept until then; the rest goes with it. */
export const MAX_AHEAD_BYTES = 8 * 1024 * 1024;
/** Most sectors that one pull asks for (1 MiB). */
export const MAX_PULL_SECTORS = 256;
/** Most runs in one syn message. */
export const MAX_SYN_RUNS = 4096;

/** Codec number of a data frame without payload whose sectors are all zeros; the others are those of wire/codec.ts. */
export const CODEC_ZERO = 0;
/** Codec number of a data frame that names sectors: zeros, pages of the target's content, repeats, and a packed rest. */
export const CODEC_CONTENT = 4;

/** Message types on the link; 64..95 are the disk's. */
export const DISK_FREEZE = 64;
export const DISK_METADATA = 65;
export const DISK_READY = 66;
export const DISK_PUSH = 67;
export const DISK_ANSWER = 68;
export const DISK_ANSWERED = 69;
export const DISK_PULL = 70;
export const DISK_SYN = 71;
export const DISK_END = 72;
export const DISK_COMPLETE = 73;
export const DISK_AHEAD = 74;
export const DISK_AS_AHEAD = 75;
export const DISK_TYPE_MIN = 64;
export const DISK_TYPE_MAX = 95;
