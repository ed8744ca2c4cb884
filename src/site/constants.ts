/** Longest path that fits `sockaddr_un.sun_path` with its terminating zero (Linux, unix(7)). */
export const SOCKET_PATH_MAX_BYTES = 107;

/** What the site adds to `runtimeDir` for its longest socket: `/m/<16 characters>/stream.sock`. */
export const SOCKET_SUFFIX_MAX_BYTES = 32;

/** A configuration file larger than this is refused unread. */
export const CONFIG_MAX_BYTES = 64 * 1024;

/** Largest body of a request to the agent's API; the largest real one (create with a kernel command line) is below 8 KiB. */
export const API_BODY_MAX_BYTES = 64 * 1024;

/** Requests that the API keeps waiting at once; each is small, so this bounds memory, not work. */
export const API_CONNECTIONS_MAX = 64;

/** Sites that one configuration may name under `link.dial`. */
export const DIAL_SITES_MAX = 64;

/** NATS servers that one configuration may name. */
export const CONTROL_SERVERS_MAX = 16;

/** VMs that one site may be configured for. */
export const VMS_MAX = 256;

/** Virtual CPUs of a VM. */
export const CPUS_MAX = 64;

/** Memory of a VM, in MiB: below 16 no guest boots; above, the time of a move over a WAN is out of proportion. */
export const MEMORY_MIN_MIB = 16;
export const MEMORY_MAX_MIB = 1024 * 1024;

/** What `residue.maxMiB` may be: 16 TiB. What is free on the disk bounds residue, too. */
export const RESIDUE_MAX_MIB = 16 * 1024 * 1024;

/** Migrations that a site may take part in at once, both directions together. */
export const MIGRATIONS_MAX = 8;

/** How long a prepared target waits for the source's mover before it cleans up. */
export const SOURCE_MOVER_TIMEOUT_MS = 30_000;

/** How long the target may take to answer `migration.prepare` (it starts a mover and a QEMU under TCG). */
export const PREPARE_TIMEOUT_MS = 60_000;

/** An ordinary call to another site's agent. */
export const PEER_CALL_TIMEOUT_MS = 10_000;

/** How long a guest may take to react to the ACPI power button before its QEMU is told to quit. */
export const STOP_GRACE_MS = 20_000;

/** Disk space that stays free when a migration is accepted: the file system of a full site helps nobody. */
export const DISK_RESERVE_BYTES = 256 * 1024 * 1024;

/** Growth of the overlay during its migration that the target's NBD export has room for, beyond its present size. */
export const EXPORT_HEADROOM_BYTES = 4 * 1024 ** 3;

/** Finished migrations whose records a site keeps; older ones are removed at start. */
export const RECORDS_KEPT = 1000;

/** Interval of progress lines in the stream of a running migration, at most one in this time. */
export const EVENT_INTERVAL_MS = 100;

/** `qemu --version` and the like take some 50 ms; a machine under load more. */
export const QEMU_PROBE_TIMEOUT_MS = 30_000;

/** Machine that a VM gets if nobody says otherwise: what DESIGN 3 pins, known to every supported QEMU. */
export const DEFAULT_MACHINE_TYPE = 'pc-i440fx-7.2';
export const DEFAULT_CPU_MODEL = 'qemu64,+rdrand';

/** `qemu-img create` and `rebase -u` touch one header. */
export const DISK_TOOL_TIMEOUT_MS = 60_000;

/** Ids of aborted migrations that are remembered, so that a late `migration.prepare` finds itself refused. */
export const TOMBSTONES_MAX = 1000;

/** Migrations that one listing shows. */
export const MIGRATIONS_LISTED = 100;

/** From starting the gateway process to its first line. */
export const GATEWAY_START_TIMEOUT_MS = 30_000;

/** How often the agent looks whether its gateway lives. */
export const GATEWAY_WATCH_INTERVAL_MS = 1_000;

/** Gateway route of the agents' RPC. */
export const ROUTE_AGENT = 'agent';
/** Whether movers use QEMU's second channel for the pages that the target waits for (`postcopy-preempt`). */
export const POSTCOPY_PREEMPT = true;

/** Largest answer of the agent that the command line takes (a screenshot is below 8 MiB). */
export const API_ANSWER_MAX_BYTES = 64 * 1024 * 1024;

/** How long a request to the agent may take; a start under TCG on a busy machine takes seconds, a stop its grace time. */
export const API_TIMEOUT_MS = 120_000;

/** Kinds of machine of which an agent remembers that its QEMU can make them. */
export const MACHINES_REMEMBERED = 256;

/** How long the end of an attempt waits for the target to be clean; without an answer the target cleans up by itself. */
export const ABORT_TIMEOUT_MS = 5_000;

/** Longest budget of a switch that can be asked for: an hour. */
export const SWITCH_BUDGET_MAX_MS = 3_600_000;

/** Latest time after its start at which a guest may be frozen into a template by the clock. */
export const TEMPLATE_AFTER_MAX_S = 3600;

/** How long a guest may take until it shows that it is ready to become a template; a browser under TCG needs a minute or two. */
export const TEMPLATE_READY_TIMEOUT_MS = 10 * 60_000;

/** How often a guest's serial log is searched for the mark of its boot. */
export const TEMPLATE_READY_POLL_MS = 100;

/** Builds of templates that an agent remembers, the one under way included. */
export const TEMPLATE_BUILDS_KEPT = 32;

/** Empty qcow2 files that an agent remembers, one a virtual size, and the largest: 196 KiB for disks of up to 2 TiB. */
export const EMPTY_DISKS_KEPT = 16;
export const EMPTY_DISK_MAX_BYTES = 1024 * 1024;

/** Pushes of images and templates that a site may take part in at once, both directions together. */
export const PUSHES_MAX = 4;
/** Pushes that have ended and are remembered until the agent ends. */
export const PUSHES_LISTED = 100;
/** How long the link of a push may be cut until the attempt is given up: nothing waits for it, and it can be resumed. */
export const PUSH_LOSS_TIMEOUT_MS = 120_000;
/** How often the process of a push tells how far it is. */
export const STAGE_STATUS_INTERVAL_MS = 200;
/** How long the process of a push may take to note where it is when its agent ends. */
export const STAGE_END_TIMEOUT_MS = 10_000;

/** How long a site that is dialled on demand may take to answer, and how often that is looked at. */
export const CONNECT_TIMEOUT_MS = 10_000;
export const CONNECT_POLL_MS = 20;
