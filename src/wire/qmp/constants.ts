/** Longest line accepted from QEMU; `query-qmp-schema`, the largest answer, has about 250 KiB on QEMU 10. */
export const QMP_MAX_LINE_BYTES = 8 * 1024 * 1024;

/** Longest command sent; QEMU's own limit on one JSON token is 64 MiB (qobject/json-streamer.c). */
export const QMP_MAX_COMMAND_BYTES = 1024 * 1024;
