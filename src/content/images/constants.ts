/** The largest disk an image may announce; a qcow2 header can claim exabytes in 100 bytes. */
export const MAX_VIRTUAL_SIZE_BYTES = 2 * 1024 ** 4;
/** The largest kernel or initial RAM disk that is taken in. */
export const MAX_BOOT_FILE_BYTES = 1024 ** 3;
/** x86 Linux's COMMAND_LINE_SIZE. */
export const MAX_COMMAND_LINE_LENGTH = 2048;
/** Length of an image's name. */
export const MAX_IMAGE_NAME_LENGTH = 64;
/** A manifest longer than this is not read. */
export const MAX_MANIFEST_BYTES = 64 * 1024;
/** Layers of a backing chain that are flattened at most; also what ends a chain that loops. */
export const MAX_BACKING_DEPTH = 16;
/** qcow2 allows 1023 bytes for the name of a backing file. */
export const MAX_BACKING_NAME_BYTES = 1023;
/** Images that one store lists. */
export const MAX_IMAGES = 10_000;
/** Shortest prefix of a digest that may stand for an image. */
export const MIN_DIGEST_PREFIX_LENGTH = 6;
/** Piece in which files are copied and hashed: 1 MiB keeps the event loop free for more than a millisecond at a time. */
export const COPY_CHUNK_BYTES = 1024 * 1024;
/** How long `qemu-img info` or `check` may take over an image from outside. */
export const IMAGE_TOOL_TIMEOUT_MS = 10 * 60_000;
