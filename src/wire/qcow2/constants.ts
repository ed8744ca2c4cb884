/** `QFI\xfb`. */
export const QCOW2_MAGIC = 0x514649fb;
/** Bytes of a header of version 2, and the smallest of version 3. */
export const V2_HEADER_BYTES = 72;
export const V3_HEADER_BYTES = 104;

/** QEMU's own limits (block/qcow2.h): clusters of 512 B to 2 MiB, 32 MiB of L1, 8 MiB of refcount table. */
export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
export const MAX_L1_BYTES = 32 * 1024 * 1024;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024;
export const MAX_BACKING_NAME_BYTES = 1023;
/** Largest virtual disk that we accept: beyond it no L1 table of the allowed size could reach. */
export const MAX_VIRTUAL_BYTES = 2 ** 50;

export const INCOMPATIBLE_DIRTY = 1;
export const INCOMPATIBLE_CORRUPT = 2;
export const INCOMPATIBLE_DATA_FILE = 4;
export const INCOMPATIBLE_COMPRESSION = 8;
export const INCOMPATIBLE_EXTENDED_L2 = 16;

/** Subclusters of a cluster when L2 entries are extended. */
export const SUBCLUSTERS = 32;
