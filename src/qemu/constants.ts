/** `sizeof(sun_path) - 1` on Linux: a longer path of a Unix socket is cut or refused. */
export const MAX_SOCKET_PATH_BYTES = 107;

/** From connecting to the end of QMP's capability negotiation. */
export const QMP_CONNECT_TIMEOUT_MS = 10_000;

/** Deadline of one QMP command unless the caller gives another. */
export const QMP_COMMAND_TIMEOUT_MS = 30_000;

/** Deadline of one wait for an event unless the caller gives another. */
export const QMP_EVENT_TIMEOUT_MS = 60_000;

/**
 * Commands that may be at QEMU unanswered. QEMU stops reading a monitor at 8 (`QMP_REQ_QUEUE_LEN_MAX`, monitor/qmp.c),
 * and then an out-of-band command would wait as well; one place stays free for it.
 */
export const QMP_MAX_IN_FLIGHT = 7;

/** Commands that may wait for their turn. */
export const QMP_MAX_QUEUED = 1024;

/** Events that a mark can look back over. */
export const QMP_EVENT_HISTORY = 4096;

/** How long the explanation of a lost monitor connection (QEMU's exit, the end of its log) may take. */
export const QMP_EXPLAIN_TIMEOUT_MS = 2_000;

/** Time for a new QEMU to answer on its monitor; it also opens its images meanwhile. */
export const QEMU_START_TIMEOUT_MS = 60_000;

/** Between two attempts to reach a monitor whose QEMU is still starting. */
export const QEMU_CONNECT_RETRY_MS = 20;

/** After QMP `quit`, and again after SIGTERM, before the next stronger means. */
export const QEMU_QUIT_GRACE_MS = 10_000;

/** How long the kernel may take to end a process after SIGKILL (a dump of its memory, I/O that hangs). */
export const QEMU_KILL_TIMEOUT_MS = 30_000;

/** How often an adopted process, which has no parent to tell us, is looked at. */
export const QEMU_WATCH_INTERVAL_MS = 200;

/** End of QEMU's log that goes into an error. */
export const QEMU_LOG_TAIL_BYTES = 4096;

/** TCG's translation cache; more only helps guests with much code (DESIGN 3.3). */
export const TCG_TB_SIZE_MIB = 128;

/** How long QEMU holds the guest's reads while its overlay's NBD server is away; afterwards the guest is stopped. */
export const NBD_RECONNECT_DELAY_S = 300;

/** How long QEMU tries to reach the overlay's NBD server at its start. */
export const NBD_OPEN_TIMEOUT_S = 30;

/** Deadline of the pivot: it waits for reads of the guest that are under way. */
export const PIVOT_TIMEOUT_MS = 120_000;

/** Deadline of committing `top` into the overlay; it moves data on the local disk only. */
export const COMMIT_TIMEOUT_MS = 30 * 60_000;

/** Saved state of a VM's devices, its video memory (16 MiB) included; the memory itself is not part of it. */
export const MAX_DEVICE_STATE_BYTES = 256 * 1024 * 1024;

/** Saving or loading a few MiB of device state. */
export const DEVICE_STATE_TIMEOUT_MS = 60_000;

/** Oldest QEMU that is supported (DESIGN 7). */
export const MIN_QEMU_VERSION = { major: 7, minor: 2 } as const;

/** Strips types itself; older ones cannot run the sources (DESIGN 7). */
export const MIN_NODE_MAJOR = 24;

export const MAX_CPUS = 64;
export const MAX_MEMORY_MIB = 1024 * 1024;
export const MIN_MEMORY_MIB = 16;
export const MAX_DISK_BYTES = 64 * 1024 ** 4;
/** Linux on x86 takes 2048 bytes with the terminating zero (COMMAND_LINE_SIZE). */
export const MAX_KERNEL_COMMAND_LINE_BYTES = 2047;
