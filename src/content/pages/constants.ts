/** Unit of content: a page of guest memory. */
export const PAGE_BYTES = 4096;
/** What is kept of a page's SHA-256: 128 bits. */
export const HASH_BYTES = 16;
/** Name of the index beside the file that it describes, in the folder of its image. */
export const INDEX_FILE = 'pages.idx';
/**
 * Pages that one index lists: 16 GiB of different content, in a file of 100 MB. Pages that come later in a larger file
 * are left out, which only costs bandwidth.
 */
export const INDEX_MAX_ENTRIES = 4 * 1024 * 1024;
/** Files that one migration may refer to. */
export const SOURCES_MAX = 8;
/** Entries with equal checksums that a look-up goes through at most; more are a forged index. */
export const PROBES_MAX = 64;
/** Piece in which files are read to be indexed. */
export const READ_CHUNK_BYTES = 1024 * 1024;
/** Requests given to the thread that reads pages: one that it works on, and one so that it need not wait for the next. */
export const READS_AHEAD = 2;

/** Memory for one read that is used again: a frame's references at most, and not a few pages that would waste it. */
export const SLOT_BYTES = 1024 * 1024 + 128 * 1024;
export const SLOT_MIN_BYTES = 64 * 1024;
/** So many of them: what a source may have under way at once (migration/memory/references.ts). */
export const SLOTS_MAX = 24;
