/** Piece in which a log is written: large enough for the disk, small enough to hold some for each stream. */
export const LOG_CHUNK_BYTES = 256 * 1024;
/**
 * Pieces of all of a log's streams together: 12 MiB that a mover may hold. A disk that falls further behind the stream
 * than that loses the log, never time of the migration.
 */
export const LOG_CHUNKS_MAX = 48;
/** Of the disk space that is free, or held by residue, residue takes at most one part in so many. */
export const FREE_DISK_SHARE = 4;
/** VMs of which a site keeps something. */
export const RESIDUES_MAX = 1000;
/** A `meta.json` or `log.json` longer than this is not read. */
export const META_MAX_BYTES = 16 * 1024;
