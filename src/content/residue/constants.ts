/** Piece in which a log is kept until it is written; all that wait are written at once. */
export const LOG_CHUNK_BYTES = 256 * 1024;
/**
 * Pieces of all of a log's parts together: 12 MiB that a mover may hold. What nobody waits for (round one, active push) is
 * held up when so many wait for the disk.
 */
export const LOG_CHUNKS_MAX = 48;
export const LOG_CHUNKS_BUSY = 24;
/**
 * How long a log may hold up a migration, all in all: a disk that is busy for a moment must not lose it. A disk that is slower
 * than the link does, and costs the migration no more than that.
 */
export const LOG_HOLD_MAX_MS = 500;
/** Sectors of an overlay that a log takes in: 8 GiB, and 8 MiB for their numbers. */
export const LOG_SECTORS_MAX = 2 * 1024 * 1024;
/** Of the disk space that is free, or held by residue, residue takes at most one part in so many. */
export const FREE_DISK_SHARE = 4;
/** VMs of which a site keeps something. */
export const RESIDUES_MAX = 1000;
/** A `meta.json` or `log.json` longer than this is not read. */
export const META_MAX_BYTES = 16 * 1024;
