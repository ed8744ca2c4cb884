/**
 * What docs/LIMITS.md says beyond the sources. A test checks that every numeric constant of a `constants.ts`, and
 * every one elsewhere that is named like a limit, stands here, and that each test named here exists.
 */
export interface LimitNote {
  /** What happens when it is crossed. */
  readonly crossed: string;
  /** `file: title` of the test that crosses it; a part of the title is enough. */
  readonly test?: string;
  /** Instead of the comment in the sources, where that speaks of several constants at once. */
  readonly why?: string;
}

type Notes = Readonly<Record<string, Readonly<Record<string, LimitNote>>>>;

/** By file, then by name. */
export const limitNotes: Notes = {
  'src/cli/demo/screen.ts': {
    READY_TIMEOUT_MS: { crossed: '`RFB_TIMEOUT`', why: 'How long AbiWord may take to come up in the demo' },
    DRAWN_TIMEOUT_MS: {
      crossed: 'the demo goes on',
      why: 'How long the demo waits for typed text to be drawn',
    },
  },
  'src/content/guests/constants.ts': {
    BUILD_STEP_TIMEOUT_MS: { crossed: '`GUEST_STEP`' },
    BUILD_KILL_AFTER_MS: { crossed: 'SIGKILL' },
    BUILD_OUTPUT_KEPT_BYTES: { crossed: 'the beginning is left out' },
    MAX_INITRAMFS_BYTES: { crossed: '`GUEST_STEP`' },
    PACKAGE_LIST_MAX_AGE_MS: { crossed: 'the lists are fetched again' },
  },
  'src/content/guests/workload-client.ts': {
    ANSWER_TIMEOUT_MS: {
      crossed: '`GUEST_SILENT`',
      why: 'How long the workload in a guest may take to answer',
    },
    MAX_PENDING_LINES: {
      crossed: 'the oldest are dropped',
      why: 'Lines of the workload that nobody has read',
    },
  },
  'src/content/pages/constants.ts': {
    INDEX_MAX_ENTRIES: { crossed: 'pages that come later are not listed: they are sent' },
    SOURCES_MAX: { crossed: '`MOVER_PROTOCOL`', why: 'Files that one migration may refer to' },
    PROBES_MAX: {
      crossed: 'the page is sent',
      test: 'src/content/pages/page-index.test.ts: many entries of one checksum',
    },
  },
  'src/content/pages/page-index.ts': {
    INDEX_MAX_BYTES: {
      crossed: '`PAGES_INDEX_DAMAGED`',
      why: 'The file of a page index with all its entries',
    },
  },
  'src/content/staging/constants.ts': {
    MAX_STAGE_CONTROL_BYTES: {
      crossed: '`STAGE_PROTOCOL`',
      test: 'test/content/staging.test.ts: ends with a code whatever the source sends',
    },
    ARTEFACT_FILES_MAX: { crossed: '`STAGE_PROTOCOL`' },
    PARTS_MAX_AGE_MS: {
      crossed: 'they are removed',
      test: 'test/content/staging.test.ts: are removed when they are old or too many',
      why: 'Age of a part of an image or template that never became whole',
    },
    PARTS_MAX: {
      crossed: 'the oldest are removed',
      test: 'test/content/staging.test.ts: are removed when they are old or too many',
      why: 'Parts of images or templates that never became whole',
    },
    STAGE_RESERVE_BYTES: {
      crossed: '`STAGE_NO_SPACE`',
      test: 'src/site/stage/manager.test.ts: is refused with a code before anything is made',
    },
    STAGE_CLOSE_TIMEOUT_MS: { crossed: 'the link is closed all the same' },
  },
  'src/content/templates/constants.ts': {
    MAX_TEMPLATES: { crossed: 'the rest is not listed' },
  },
  'src/content/residue/constants.ts': {
    LOG_CHUNKS_MAX: {
      crossed: '`RESIDUE_LOG_SLOW`: the log is given up, the migration goes on',
      test: 'src/content/residue/log.test.ts: a disk that does not keep up',
    },
    LOG_CHUNKS_BUSY: {
      crossed: 'round one and active push wait',
      why: 'Pieces of a log that may wait for the disk before it holds up what nobody waits for',
      test: 'src/content/residue/log.test.ts: a disk that does not keep up',
    },
    LOG_HOLD_MAX_MS: { crossed: 'nothing waits for the log any more' },
    LOG_SECTORS_MAX: { crossed: '`RESIDUE_LOG_FULL`: the log is given up' },
    FREE_DISK_SHARE: {
      crossed: 'the least recently used go, or the new one is not kept',
      test: 'src/content/residue/store.test.ts: residue takes a share of what is free',
    },
    RESIDUES_MAX: {
      crossed: 'the least recently used go',
      test: 'src/content/residue/store.test.ts: no more than RESIDUES_MAX VMs',
    },
    META_MAX_BYTES: { crossed: 'it counts as damaged: the residue is swept' },
  },
  'src/content/images/constants.ts': {
    MAX_VIRTUAL_SIZE_BYTES: {
      crossed: '`IMAGE_TOO_LARGE`',
      test: 'test/content/images.test.ts: refuses what is no image or no safe one',
    },
    MAX_BOOT_FILE_BYTES: {
      crossed: '`IMAGE_TOO_LARGE`',
      test: 'src/content/limits.test.ts: the largest kernel or initial RAM disk',
    },
    MAX_COMMAND_LINE_LENGTH: {
      crossed: '`IMAGE_COMMAND_LINE`',
      test: 'test/content/images.test.ts: refuses unusable names and command lines',
    },
    MAX_IMAGE_NAME_LENGTH: {
      crossed: '`IMAGE_NAME`',
      test: 'test/content/images.test.ts: refuses unusable names and command lines',
    },
    MAX_MANIFEST_BYTES: {
      crossed: '`IMAGE_CORRUPT`',
      test: 'src/content/limits.test.ts: a manifest that is too long',
    },
    MAX_BACKING_DEPTH: { crossed: '`IMAGE_BACKING_UNSAFE`' },
    MAX_BACKING_NAME_BYTES: {
      crossed: '`IMAGE_CORRUPT`',
      test: 'test/content/images.test.ts: refuses what is no image or no safe one',
    },
    MAX_IMAGES: { crossed: 'the rest is not listed' },
    MIN_DIGEST_PREFIX_LENGTH: {
      crossed: '`IMAGE_UNKNOWN`',
      test: 'src/content/limits.test.ts: a prefix that is too short',
    },
    IMAGE_TOOL_TIMEOUT_MS: { crossed: '`IMAGE_CORRUPT`, the tool is killed' },
  },
  'src/host/constants.ts': {
    DIRECT_TIMEOUT_MS: {
      crossed: 'they meet at a relay',
      test: 'test/center/relay.test.ts: a VM goes from AP to AP, both ways, through the center',
    },
    RELAY_TIMEOUT_MS: {
      crossed: 'the next relay, or `HOST_NO_ROUTE`',
      test: 'src/host/reach.test.ts: a relay that does not answer',
    },
    DIRECT_RETRY_MS: {
      crossed: 'the direct way is tried first again',
      test: 'src/host/reach.test.ts: two hosts that had to meet',
    },
    REACH_TIMEOUT_MS: {
      crossed: '`HOST_NO_ROUTE`',
      test: 'src/host/reach.test.ts: is none where none answers in time',
    },
    ANSWER_MS: { crossed: 'the next way' },
  },
  'src/link/constants.ts': {
    PEERS_FILE_MAX_BYTES: { crossed: 'nobody is let in' },
    SILENCE_MS: { crossed: 'that connection is cut and made again' },
    LOSS_TIMEOUT_MS: {
      crossed: '`LINK_LOST`',
      test: 'test/link/session.test.ts: that last too long end the session with LINK_LOST on both sides',
    },
    CONNECT_TIMEOUT_MS: { crossed: '`LINK_UNREACHABLE`' },
    ATTEMPT_TIMEOUT_MS: { crossed: 'the attempt ends, the next one begins' },
    CLOSE_TIMEOUT_MS: { crossed: '`LINK_CLOSE_TIMEOUT`' },
    CLOSE_LINGER_MS: { crossed: 'the connection is dropped' },
    URGENT_PENDING_BYTES: {
      crossed: 'senders wait',
      test: 'src/link/limits.test.ts: sends that wait for room',
    },
    BULK_BACKLOG_BYTES: {
      crossed: 'senders wait',
      test: 'test/link/session.test.ts: BULK_BACKLOG_BYTES',
    },
    MAX_WAITING_SENDS: {
      crossed: '`LINK_OVERLOAD`',
      test: 'src/link/limits.test.ts: sends that wait for room',
    },
    MAX_UNHANDLED_BYTES: {
      crossed: '`LINK_FLOODED`, the session ends',
      test: 'src/link/limits.test.ts: bytes that a peer sends and nobody handles',
    },
    MAX_UNHANDLED_MESSAGES: {
      crossed: '`LINK_FLOODED`, the session ends',
      test: 'src/link/limits.test.ts: messages that a peer sends and nobody handles',
    },
    WINDOW_MIN_BYTES: {
      crossed: 'the window stays there',
      test: 'src/link/window.test.ts: WINDOW_MIN_BYTES',
      why: 'Smallest bulk window',
    },
    WINDOW_MAX_BYTES: {
      crossed: 'the window stays there',
      why: 'Largest bulk window: 10 Gbit/s at 26 ms',
    },
    SLACK_MAX_MS: { crossed: 'the allowance stays there' },
    AGGREGATION_MAX_MS: { crossed: 'the allowance stays there' },
    GATEWAY_MAX_CONNECTIONS: {
      crossed: '`LINK_GATEWAY_BUSY` at the dialler',
      test: 'test/link/gateway.test.ts: connections beyond the limit are refused',
      why: 'Connections of a gateway at once',
    },
    RELAY_TICKET_MS: {
      crossed: 'both are refused; the dialler tries again',
      test: 'test/link/relay.test.ts: a ticket that nobody meets at',
      why: 'How long the two connections that meet in a relay’s gateway may take',
    },
    RELAY_TICKETS_MAX: {
      crossed: '`LINK_RELAY_BUSY`',
      test: 'test/link/relay.test.ts: routes and tickets of one site are limited',
      why: 'Tickets of one site that wait for their connections; connections that one route makes at once',
    },
    RELAY_ROUTES_MAX: {
      crossed: '`LINK_RELAY_BUSY`',
      test: 'test/link/relay.test.ts: routes and tickets of one site are limited',
      why: 'Routes that one site has open at a relay',
    },
    RELAY_WAIT_MS: {
      crossed: '`LINK_RELAY_UNKNOWN`; the dialler tries again',
      test: 'test/link/relay.test.ts: nobody gets in without a certificate',
    },
    RELAY_OPEN_TIMEOUT_MS: { crossed: 'the next relay, or `HOST_NO_ROUTE`' },
    GATEWAY_PREAMBLE_TIMEOUT_MS: {
      crossed: 'the connection is closed',
      why: 'How long a connection may take to name its route, and how long reaching that may take',
    },
    MAX_LISTENER_CONNECTIONS: {
      crossed: 'further connections are dropped',
      why: 'Connections to a listener: two a session, and those not authenticated yet',
    },
    HANDSHAKE_TIMEOUT_MS: { crossed: 'the connection is closed', why: 'How long TLS and HELLO may take' },
    MAX_SESSIONS: { crossed: '`LINK_OVERLOAD`' },
    RPC_MAX_LINE_BYTES: {
      crossed: '`RPC_LINE_TOO_LONG`; from a peer the connection ends',
      test: 'src/link/rpc.test.ts: lines beyond the limit are not sent, and end the connection if they come',
      why: 'Longest message between agents, and between an agent and its movers',
    },
    RPC_MAX_PENDING: {
      crossed: '`RPC_OVERLOAD`',
      test: 'src/link/rpc.test.ts: too many calls: at the caller, and at the one who handles',
      why: 'Calls that wait for an answer',
    },
    RPC_MAX_HANDLING: {
      crossed: '`RPC_OVERLOAD`',
      test: 'src/link/rpc.test.ts: too many calls: at the caller, and at the one who handles',
      why: 'Calls of a peer that are being handled',
    },
    RPC_TIMEOUT_MS: {
      crossed: '`RPC_TIMEOUT`',
      test: 'src/link/rpc.test.ts: a call that takes too long or is given up aborts the handler',
      why: 'How long a call may take unless it says otherwise',
    },
    RPC_SILENCE_MS: {
      crossed: 'the connection is closed and dialled again',
      why: 'Silence after which the connection of two agents is given up',
    },
  },
  'src/link/link-spec.ts': {
    MAX_RATE_MBIT: {
      crossed: '`LINK_SPEC`',
      test: 'src/link/link-spec.test.ts: rate=999999gbit',
      why: 'Fastest link that the emulator is asked for',
    },
    MAX_TIME_MS: { crossed: '`LINK_SPEC`', why: 'Longest round trip that the emulator is asked for' },
  },
  'src/link/tls.ts': {
    MAX_SOCKET_PATH_BYTES: {
      crossed: '`LINK_PATH_TOO_LONG`',
      test: 'test/link/session.test.ts: LINK_PATH_TOO_LONG',
    },
  },
  'src/migration/disk/constants.ts': {
    MAX_SOURCE_PULLS: { crossed: '`DISK_LIMIT`' },
    MAX_PULL_SECTORS_IN_FLIGHT: {
      crossed: 'further pulls wait',
      test: 'src/migration/disk/parts.test.ts: keeps to its limit and sends the rest as sectors land',
    },
    MAX_REPLAY_QUEUE_BYTES: {
      crossed: '`DISK_LIMIT`',
      test: 'src/migration/disk/parts.test.ts: does urgent jobs first, one at a time, in order',
    },
    REPLAY_SLACK_BYTES: { crossed: 'credit is held back' },
    MAX_LOADING_BYTES: { crossed: '`DISK_LIMIT`' },
    MAX_CONTENT_MISSES: {
      crossed: 'everything is sent',
      test: 'test/migration/disk-content.test.ts: refers to nothing any more',
    },
    MAX_REPLAY_QUEUE_FRAMES: {
      crossed: '`DISK_LIMIT`',
      test: 'src/migration/limits.test.ts: messages that wait to be written',
    },
    MAX_BAD_IN_A_ROW: {
      crossed: '`DISK_CORRUPT`',
      test: 'src/migration/limits.test.ts: damaged disk frames in a row',
    },
    MAX_READ_BYTES: { crossed: '`DISK_LIMIT`' },
  },
  'src/migration/mover/limits.ts': {
    MOVER_RSS_LIMIT_MIB: {
      crossed: 'a defect: the test fails',
      test: 'test/migration/bounded-memory.test.ts: a VM eight times as large takes no more memory to move',
    },
  },
  'src/migration/pace.ts': {
    PACE_SAVED_MAX_BYTES: {
      crossed: 'more is not saved up',
      test: 'src/migration/pace.test.ts: saves up little',
    },
  },
  'src/migration/schemes/early.ts': {
    PAUSE_MAX_MS: {
      crossed: 'round one goes on',
      test: 'src/migration/schemes/early.test.ts: a round that takes long is left for a pause that is short beside it',
      why: 'How long a VM may be made to wait for pages by leaving round one early',
    },
    LEAVE_MAX: {
      crossed: 'round one goes on',
      test: 'src/migration/schemes/early.test.ts: nothing is left before enough has gone to tell',
      why: 'Share of a VM’s memory that may still be to come when round one is left',
    },
  },
  'src/migration/memory/chunks.ts': {
    REQUESTED_MAX_BYTES: {
      crossed: 'QEMU waits to write',
      test: 'src/migration/memory/chunks.test.ts: QEMU waits while nothing is dealt with',
      why: 'What may be read ahead of a channel for requests that stand behind it',
    },
  },
  'src/migration/memory/finish-paused.ts': {
    MAX_COMMANDS_BYTES: { crossed: '`MOVER_QEMU_SOURCE`' },
  },
  'src/migration/memory/packing.ts': {
    PACK_THREADS_MAX: { crossed: 'the next frame waits', why: 'Frames of round one that are packed at once' },
  },
  'src/migration/memory/source.ts': {
    MISSING_MAX_PAGES: {
      crossed: 'nothing is referred to any more',
      test: 'test/migration/content.test.ts: pages that are damaged at the target are sent after all',
      why: 'Pages that the target asked for although its index lists them',
    },
  },
  'src/migration/memory/ring-pages.ts': {
    IDENTITY_LIMIT_BYTES: {
      crossed: 'such pages are not asked for early',
      why: 'Guest addresses below it are offsets in RAM',
    },
    MAX_PAGES: { crossed: 'the rest follows on fault', why: 'Pages asked for right behind the device state' },
  },
  'src/migration/memory/stream-tail.ts': {
    MAX_PRECOPY_TAIL_BYTES: {
      crossed: '`MOVER_PROTOCOL`, before the switch',
      test: 'src/migration/limits.test.ts: device state that is held back',
    },
  },
  'src/migration/memory/target.ts': {
    MAX_REORDERED_MESSAGES: {
      crossed: '`MOVER_PROTOCOL`',
      test: 'src/migration/limits.test.ts: stream messages out of order',
    },
    MAX_REORDERED_BYTES: { crossed: '`MOVER_PROTOCOL`', why: 'Bytes of such messages' },
    EARLY_MAX_BYTES: {
      crossed: 'credit is held back until QEMU has taken what came',
      test: 'src/migration/memory/memory.test.ts: while QEMU starts',
    },
    CONNECT_TIMEOUT_MS: {
      crossed: '`MOVER_QEMU_TARGET`',
      why: 'How long the target’s QEMU may take to listen for the stream',
    },
  },
  'src/migration/messages.ts': {
    MAX_CONTROL_BYTES: {
      crossed: '`MOVER_PROTOCOL`',
      test: 'src/migration/messages.test.ts: another version, a missing field, too long a message are refused',
    },
    MAX_ERROR_TEXT: { crossed: 'cut by us, `MOVER_PROTOCOL` from a peer' },
  },
  'src/migration/outgoing.ts': {
    END_TIMEOUT_MS: {
      crossed: '`MOVER_TIMEOUT`',
      why: 'How long QEMU may take to end an outgoing migration',
    },
  },
  'src/migration/mover/main.ts': {
    MAX_UNREAD_BYTES: { crossed: 'the agent’s connection is closed; it connects again' },
  },
  'src/migration/mover/link.ts': {
    CONNECT_TIMEOUT_MS: { crossed: '`LINK_UNREACHABLE`', why: 'How long two movers may take to meet' },
  },
  'src/migration/mover/peer.ts': {
    CLOSE_TIMEOUT_MS: {
      crossed: 'the session is left',
      why: 'How long the last message may take to be acknowledged',
    },
  },
  'src/migration/mover/source.ts': {
    CHANNELS_TIMEOUT_MS: { crossed: 'the cancel goes ahead without' },
    ACCEPT_TIMEOUT_MS: {
      crossed: '`MOVER_TIMEOUT`',
      why: 'How long the target may take from HELLO to ACCEPTED',
    },
    READY_TIMEOUT_MS: { crossed: '`MOVER_TIMEOUT`' },
  },
  'src/migration/mover/spawn.ts': {
    ADOPT_TIMEOUT_MS: { crossed: 'the mover is ended and counts as lost' },
    TAKE_BACK_TIMEOUT_MS: {
      crossed: '`RPC_TIMEOUT`',
      why: 'How long a source’s mover may take to make its QEMU run the VM again',
    },
    START_TIMEOUT_MS: { crossed: '`MOVER_START`', why: 'How long a mover process may take to listen' },
  },
  'src/migration/mover/target.ts': {
    HELLO_TIMEOUT_MS: { crossed: '`MOVER_TIMEOUT`', why: 'Whoever prepared us should be here by then' },
    QEMU_START_TIMEOUT_MS: {
      crossed: '`MOVER_QEMU_TARGET`',
      why: 'How long the target’s QEMU may take to answer',
    },
    RELEASE_TIMEOUT_MS: { crossed: 'the target’s mover ends all the same' },
    QUIT_TIMEOUT_MS: {
      crossed: 'the agent kills it',
      why: 'How long QEMU may take to quit after a failed attempt',
    },
  },
  'src/migration/schemes/hybrid.ts': {
    DOWNTIME_LIMIT_MS: {
      crossed: 'QEMU goes to post-copy ([decision 2](decisions/0002-one-round-then-postcopy.md))',
    },
  },
  'src/nbd/constants.ts': {
    NBD_HANDSHAKE_TIMEOUT_MS: {
      crossed: '`NBD_HANDSHAKE_TIMEOUT`',
      test: 'src/nbd/server.test.ts: a silent client is dropped after the timeout',
    },
    NBD_MAX_OPTIONS: {
      crossed: '`NBD_TOO_LARGE`, the connection ends',
      test: 'src/nbd/server.test.ts: too many options',
    },
    NBD_MAX_OPTION_REPLIES: { crossed: '`NBD_TOO_LARGE`, the connection ends' },
    NBD_SERVER_MAX_CONNECTIONS: {
      crossed: 'closed at once',
      test: 'src/nbd/server.test.ts: connections above the limit are refused',
    },
    NBD_SERVER_MAX_IN_FLIGHT_REQUESTS: {
      crossed: 'the socket is not read',
      test: 'src/nbd/server.test.ts: requests beyond the limit are not read until others are answered',
    },
    NBD_SERVER_MAX_IN_FLIGHT_BYTES: {
      crossed: 'the socket is not read',
      test: 'src/nbd/server.test.ts: maxInFlightBytes',
    },
    NBD_SERVER_DRAIN_TIMEOUT_MS: { crossed: 'the connection is dropped' },
    NBD_CLIENT_MAX_IN_FLIGHT_REQUESTS: {
      crossed: 'the request waits',
      test: 'src/nbd/client.test.ts: keep to the limits: some on the wire, some waiting, the rest refused',
    },
    NBD_CLIENT_MAX_IN_FLIGHT_BYTES: {
      crossed: 'the request waits',
      test: 'src/nbd/client.test.ts: keep to the limits: some on the wire, some waiting, the rest refused',
    },
    NBD_CLIENT_MAX_QUEUED_REQUESTS: {
      crossed: '`NBD_QUEUE_FULL`',
      test: 'src/nbd/client.test.ts: keep to the limits: some on the wire, some waiting, the rest refused',
    },
    NBD_CLIENT_MAX_EXTENTS: { crossed: '`NBD_QUEUE_FULL`' },
    NBD_MAX_RANGE_BYTES: { crossed: '`NBD_RANGE`' },
    NBD_DISCONNECT_TIMEOUT_MS: { crossed: 'the connection is dropped' },
    NBD_MAX_SOCKET_PATH_BYTES: {
      crossed: '`NBD_LISTEN_FAILED`',
      test: 'src/nbd/server.test.ts: never replaces a file, and its path has a limit',
    },
  },
  'src/nbd/server-requests.ts': {
    MAX_EXTENT_BYTES: {
      crossed: 'the extent is cut up',
      why: 'Longest extent of a BLOCK_STATUS reply: 32 bits',
    },
  },
  'src/qemu/constants.ts': {
    MAX_SOCKET_PATH_BYTES: {
      crossed: '`QEMU_SOCKET_PATH_TOO_LONG`',
      test: 'src/qemu/command-line.test.ts: QEMU_SOCKET_PATH_TOO_LONG',
    },
    QMP_CONNECT_TIMEOUT_MS: {
      crossed: '`QMP_CONNECT_FAILED`',
      test: 'src/qemu/qmp-session.test.ts: opening fails in time, by signal, and when QEMU refuses',
    },
    QMP_COMMAND_TIMEOUT_MS: {
      crossed: '`QMP_TIMEOUT`',
      test: 'src/qemu/qmp-session.test.ts: a deadline or an abort ends one wait',
    },
    QMP_EVENT_TIMEOUT_MS: { crossed: '`QMP_EVENT_TIMEOUT`' },
    QMP_MAX_IN_FLIGHT: {
      crossed: 'the command waits',
      test: 'src/qemu/qmp-session.test.ts: at most so many commands are at QEMU',
    },
    QMP_MAX_QUEUED: { crossed: '`QMP_BUSY`' },
    QMP_EVENT_HISTORY: {
      crossed: '`QMP_EVENTS_LOST` for a mark that fell out',
      test: 'src/qemu/qmp-session.test.ts: the history is bounded',
    },
    QMP_EXPLAIN_TIMEOUT_MS: { crossed: 'the error goes without it' },
    QEMU_START_TIMEOUT_MS: { crossed: '`QEMU_START_FAILED`' },
    QEMU_QUIT_GRACE_MS: { crossed: 'SIGTERM, then SIGKILL' },
    QEMU_KILL_TIMEOUT_MS: { crossed: '`QEMU_UNKILLABLE`' },
    MAX_DEVICE_STATE_BYTES: { crossed: '`QEMU_STATE_NOT_SAVED`' },
    DEVICE_STATE_TIMEOUT_MS: { crossed: '`QMP_EVENT_TIMEOUT`' },
    QEMU_LOG_TAIL_BYTES: { crossed: 'the beginning is left out' },
    NBD_RECONNECT_DELAY_S: { crossed: 'QEMU stops the guest (`werror`/`rerror` = stop)' },
    NBD_OPEN_TIMEOUT_S: { crossed: '`QEMU_START_FAILED`' },
    PIVOT_TIMEOUT_MS: { crossed: '`QMP_TIMEOUT`' },
    COMMIT_TIMEOUT_MS: { crossed: '`QMP_EVENT_TIMEOUT`' },
    MIN_NODE_MAJOR: { crossed: '`doctor` says FAIL' },
    MAX_CPUS: {
      crossed: '`QEMU_SPEC_INVALID`',
      test: 'src/qemu/limits.test.ts: CPUs',
      why: 'Virtual CPUs of a machine',
    },
    MAX_MEMORY_MIB: {
      crossed: '`QEMU_SPEC_INVALID`',
      test: 'src/qemu/limits.test.ts: much memory',
      why: 'Memory of a machine',
    },
    MIN_MEMORY_MIB: {
      crossed: '`QEMU_SPEC_INVALID`',
      test: 'src/qemu/limits.test.ts: little memory',
      why: 'Below it no guest boots',
    },
    MAX_DISK_BYTES: {
      crossed: '`QEMU_SPEC_INVALID`',
      test: 'src/qemu/limits.test.ts: disk',
      why: 'Disk of a machine',
    },
    MAX_KERNEL_COMMAND_LINE_BYTES: {
      crossed: '`QEMU_SPEC_INVALID`',
      test: 'src/qemu/limits.test.ts: kernel command line',
    },
  },
  'src/qemu/rfb/constants.ts': {
    MAX_SCREEN_SIDE_PIXELS: {
      crossed: '`RFB_LIMIT`',
      test: 'src/qemu/rfb/parser.test.ts: refuses what breaks the protocol or a limit',
    },
    MAX_RFB_TEXT_BYTES: {
      crossed: '`RFB_LIMIT`',
      test: 'src/qemu/rfb/parser.test.ts: refuses what breaks the protocol or a limit',
    },
    MAX_CUT_TEXT_BYTES: {
      crossed: '`RFB_LIMIT`',
      test: 'src/qemu/rfb/parser.test.ts: refuses what breaks the protocol or a limit',
    },
    MAX_RECTANGLES: {
      crossed: '`RFB_LIMIT`',
      test: 'src/qemu/rfb/parser.test.ts: refuses what breaks the protocol or a limit',
    },
    RFB_CONNECT_TIMEOUT_MS: {
      crossed: '`RFB_CONNECT`',
      test: 'src/qemu/rfb/session.test.ts: reports a missing socket, a silent server and an abort',
    },
    RFB_REFRESH_TIMEOUT_MS: { crossed: '`RFB_TIMEOUT`' },
  },
  'src/center/constants.ts': {
    MOVE_LOST_MS: { crossed: '`MOVE_LOST`; the VM is where its hosts say' },
    MOVES_ACTIVE_MAX: { crossed: '`MOVE_TOO_MANY`' },
    MOVES_KEPT: { crossed: 'the oldest are forgotten' },
    PLACE_ATTEMPTS: {
      crossed: 'the move fails with the last error',
      why: 'Attempts to have a site choose a host while its agent does not answer',
    },
    FOLLOW_BACKOFF_MAX_MS: {
      crossed: 'it is tried again that often',
      why: 'Longest pause before a move that failed is tried again',
    },
    MOVES_PER_LINK: {
      crossed: 'further moves wait for their turn',
      test: 'test/center/queue.test.ts: so many at once on the link',
    },
    SITE_CHANGE_ATTEMPTS: {
      crossed: 'the request fails with `CONTROL_CONFLICT`',
      test: 'test/center/schedule.test.ts: do not undo each other',
    },
    REBALANCE_REST_MS: {
      crossed: 'rebalancing may move it again',
      test: 'test/center/schedule.test.ts: rests, however the load has changed',
    },
    MOVES_PER_HOST: { crossed: 'further moves wait for their turn', why: 'Moves away from one host at once' },
    CENTER_CONFIG_MAX_BYTES: { crossed: '`CONFIG_UNREADABLE`' },
    VM_CREATE_TIMEOUT_MS: {
      crossed: '`CONTROL_NO_ANSWER`; the same request again finds the VM',
      why: 'How long a host may take to make and start a VM',
    },
    VM_REQUEST_TIMEOUT_MS: {
      crossed: '`CONTROL_NO_ANSWER`',
      why: 'How long a host may take to start or stop a VM',
    },
  },
  'src/control/constants.ts': {
    SILENT_AFTER_MS: { crossed: 'the host counts as gone' },
    MESSAGE_MAX_BYTES: { crossed: '`CONTROL_TOO_LARGE`' },
    REQUEST_TIMEOUT_MS: { crossed: '`CONTROL_NO_ANSWER`' },
    ANSWERS_KEPT: { crossed: 'the oldest are forgotten' },
    REQUESTS_UNDER_WAY_MAX: { crossed: '`CONTROL_BUSY`' },
    EVENTS_KEPT: { crossed: 'the oldest are dropped' },
    EVENTS_KEPT_MS: { crossed: 'the oldest are dropped', why: 'How long events are kept' },
    PRESENCE_KEPT_MS: { crossed: 'the message is dropped' },
    SETTLE_ATTEMPTS: { crossed: 'what was seen counts as refused by the server' },
    NATS_RELOAD_TIMEOUT_MS: { crossed: '`CONTROL_NATS`' },
    NATS_START_TIMEOUT_MS: { crossed: '`CONTROL_NATS`' },
    CONNECT_TIMEOUT_MS: { crossed: '`CONTROL_UNREACHABLE`' },
    LIST_MAX: { crossed: '`CONTROL_BAD_REQUEST`' },
    STORE_TIMEOUT_MS: { crossed: 'the operation is tried again' },
    STORE_ATTEMPTS: { crossed: '`CONTROL_UNREACHABLE`' },
  },
  'src/mobility/constants.ts': {
    WAITING_MAX: { crossed: 'the oldest are dropped' },
    SOURCE_RESTART_MAX_MS: {
      crossed: 'it is started again that often',
      why: 'Longest pause before a source is started again',
    },
    HOOK_LINE_MAX_BYTES: {
      crossed: 'the rest is cut off',
      test: 'test/mobility/sources.test.ts: passes each call on',
    },
    LEASES_MAX_BYTES: { crossed: 'it is not read' },
    PORTAL_SILENT_MS: {
      crossed: 'the device has left',
      test: 'test/mobility/sources.test.ts: a browser is here',
    },
    PORTAL_DEVICES_MAX: { crossed: 'the one that was silent longest has left' },
    DEVICE_TOKEN_TTL_MS: {
      crossed: '`PRESENCE_TOKEN`',
      test: 'test/mobility/sources.test.ts: a token that is expired',
    },
    DEVICE_TOKEN_TTL_MAX_MS: {
      crossed: '`API_BAD_REQUEST`',
      why: 'Longest life of a device’s token that can be asked for',
    },
    PRESENCE_BODY_MAX_BYTES: {
      crossed: '`PRESENCE_BAD_REQUEST`',
      test: 'test/mobility/sources.test.ts: MEC 028: refuses %s',
      why: 'Body of a request to a site’s presence service',
    },
    PRESENCE_REQUESTS_PER_MINUTE: {
      crossed: '`PRESENCE_BAD_REQUEST`, status 429',
      why: 'Requests of one address within a minute',
    },
    MEC_STATIONS_MAX: {
      crossed: '`PRESENCE_BAD_REQUEST`',
      test: 'test/mobility/sources.test.ts: MEC 028: refuses %s',
    },
    MEC_WAITING_MAX: { crossed: 'the oldest are dropped' },
    MEC_TIMEOUT_MS: { crossed: 'it is tried again', why: 'How long a MEC platform may take to answer' },
    MEC_ATTEMPTS: {
      crossed: 'the notification is dropped',
      test: 'test/mobility/sources.test.ts: MEC 021: a platform is told',
      why: 'Attempts to tell a MEC platform of a move',
    },
    LEAVE_GRACE_MS: { crossed: 'the device is nowhere' },
    FLAP_CHANGES: { crossed: 'the device must stay to count' },
    DEVICES_MAX: { crossed: 'further devices are not followed' },
    STRANGERS_MAX: {
      crossed: 'the oldest are forgotten',
      why: 'Devices without a user that are remembered for an administrator',
    },
  },
  'src/registry/constants.ts': {
    TOKEN_TTL_MS: {
      crossed: '`ENROL_TOKEN_EXPIRED`',
      test: 'test/registry/enrolment.test.ts: expires, is removed',
    },
    TOKEN_TTL_MAX_MS: { crossed: '`API_BAD_REQUEST`', why: 'Longest life of a token that can be asked for' },
    TOKENS_MAX: { crossed: '`ENROL_TOO_MANY`' },
    TOKEN_MAX_CHARS: { crossed: '`ENROL_TOKEN`', test: 'test/registry/enrolment.test.ts: is not ' },
    ENROL_BODY_MAX_BYTES: {
      crossed: 'status 413',
      test: 'test/registry/enrolment.test.ts: refuses a body that is',
      why: 'Largest body of a request to enrol, and largest answer',
    },
    ENROL_REQUESTS_PER_MINUTE: {
      crossed: '`ENROL_TOO_MANY`',
      test: 'test/registry/enrolment.test.ts: lets an address ask only so often',
    },
    ENROL_CONNECTIONS_MAX: {
      crossed: 'the connection is closed',
      why: 'Connections to the enrolment service at once',
    },
    ENROL_TIMEOUT_MS: { crossed: '`ENROL_UNREACHABLE`' },
    RENEW_AFTER: {
      crossed: 'the certificate is renewed',
      test: 'test/registry/enrolment.test.ts: comes when two thirds',
    },
  },
  'src/portal/constants.ts': {
    PORTAL_CONNECTIONS_MAX: { crossed: 'the connection is closed' },
    PORTAL_BODY_MAX_BYTES: { crossed: 'status 413', test: 'test/portal/api.test.ts: that are %s get a code' },
    PORTAL_REQUESTS_PER_MINUTE: {
      crossed: '`PORTAL_BUSY`',
      test: 'test/portal/api.test.ts: are limited by address',
    },
    PAGE_ITEMS_MAX: {
      crossed: '`API_BAD_REQUEST`',
      test: 'test/portal/api.test.ts: that are %s get a code',
      why: 'Records in one answer of the center’s API',
    },
    SESSION_TTL_MS: { crossed: '`AUTH_EXPIRED`', test: 'test/portal/api.test.ts: a session ends' },
    API_TOKEN_TTL_MS: {
      crossed: '`AUTH_EXPIRED`',
      why: 'How long a token of a machine is good, unless said otherwise',
    },
    API_TOKEN_TTL_MAX_MS: { crossed: '`API_BAD_REQUEST`', why: 'Longest life of a token of a machine' },
    CREDENTIALS_PER_USER: { crossed: '`CREDENTIALS_TOO_MANY`' },
    PASSWORD_MIN_CHARS: {
      crossed: '`AUTH_PASSWORD`',
      test: 'test/portal/api.test.ts: passwords are kept',
      why: 'Shortest password',
    },
    PASSWORD_MAX_CHARS: {
      crossed: '`AUTH_PASSWORD`',
      test: 'test/portal/api.test.ts: passwords are kept',
      why: 'Longest password',
    },
    HASHES_AT_ONCE: { crossed: 'further ones wait' },
    HASHES_WAITING_MAX: { crossed: '`PORTAL_BUSY`', why: 'Passwords that wait to be hashed' },
    LOGIN_FAILURES_MAX: {
      crossed: '`AUTH_LOCKED`',
      test: 'test/portal/api.test.ts: too many wrong passwords',
    },
    EVENTS_REMEMBERED: {
      crossed: 'an event `reset`',
      test: 'test/portal/api.test.ts: events come as they happen',
    },
    EVENT_BACKLOG_MAX_BYTES: {
      crossed: 'the listener is cut off',
      why: 'Bytes that one listener may be behind',
    },
    EVENT_LISTENERS_MAX: { crossed: '`PORTAL_BUSY`', why: 'Listeners to events at once' },
    TASKS_KEPT: { crossed: 'the oldest are forgotten' },
    TASK_WAIT_MAX_MS: { crossed: '`API_BAD_REQUEST`' },
  },
  'src/schedule/constants.ts': {
    RESERVATION_MS: { crossed: 'the place is free again' },
    PLACE_ATTEMPTS: { crossed: '`PLACE_CONTENDED`' },
    OVERLOADED_CPU: {
      crossed: 'VMs do not follow there, and those that have no room at their user’s site leave for home',
      test: 'src/schedule/decide.test.ts: it %s',
    },
    BALANCE_SPREAD_START: {
      crossed: 'VMs are moved to emptier hosts when rebalancing is asked for',
      test: 'src/schedule/balance.test.ts: a load that hovers moves nothing to and fro',
    },
    BALANCE_GAIN_MIN: {
      crossed: 'what brings less is not moved',
      why: 'What a move must bring to be worth its traffic, as a share of a host',
      test: 'src/schedule/balance.test.ts: it comes to rest',
    },
    BALANCE_MOVES_MAX: {
      crossed: 'the rest is for the next plan',
      test: 'src/schedule/balance.test.ts: it comes to rest',
    },
    NEARER_FACTOR: {
      crossed: 'the VM stays where it is',
      test: 'src/schedule/decide.test.ts: it %s',
    },
  },
  'src/cli/up.ts': {
    APS_MAX: { crossed: '`USAGE`', why: 'CloudAPs of `cloudap up`' },
    HOSTS_MAX: { crossed: '`USAGE`', why: 'Hosts a site of `cloudap up`' },
  },
  'src/site/constants.ts': {
    CONTROL_SERVERS_MAX: { crossed: '`CONFIG_INVALID`' },
    CONNECT_TIMEOUT_MS: {
      crossed: '`SITE_NOT_CONNECTED`',
      why: 'How long a site that is dialled on demand may take to answer',
    },
    PUSHES_MAX: {
      crossed: '`STAGE_TOO_MANY`',
      test: 'src/site/stage/manager.test.ts: are not more than so many',
    },
    PUSHES_LISTED: { crossed: 'the oldest are forgotten' },
    PUSH_LOSS_TIMEOUT_MS: { crossed: '`LINK_LOST`; what has arrived stays' },
    STAGE_END_TIMEOUT_MS: { crossed: 'SIGKILL; what was noted last stays' },
    SOCKET_PATH_MAX_BYTES: {
      crossed: '`CONFIG_PATH_TOO_LONG`',
      test: 'src/site/config.test.ts: refuses a runtime directory in which sockets have no room',
    },
    SOCKET_SUFFIX_MAX_BYTES: {
      crossed: 'a defect: `CONFIG_PATH_TOO_LONG` would come too late',
      test: 'src/site/paths.test.ts: has room for the longest socket behind the longest runtime directory',
    },
    RESIDUE_MAX_MIB: {
      crossed: '`CONFIG_INVALID`',
      test: 'src/site/config.test.ts: more than residue.maxMiB may be',
    },
    CONFIG_MAX_BYTES: {
      crossed: '`CONFIG_UNREADABLE`',
      test: 'src/site/limits.test.ts: a configuration file has a largest size',
    },
    API_BODY_MAX_BYTES: {
      crossed: '`API_BAD_REQUEST`',
      test: 'src/site/api/server.test.ts: refuses bodies that are not what they should be, and names the fields',
    },
    API_CONNECTIONS_MAX: { crossed: 'further connections are dropped' },
    DIAL_SITES_MAX: { crossed: '`CONFIG_INVALID`', test: 'src/site/limits.test.ts: a configuration takes' },
    VMS_MAX: { crossed: '`CONFIG_INVALID`', test: 'src/site/limits.test.ts: a configuration takes' },
    CPUS_MAX: { crossed: '`API_BAD_REQUEST`', test: 'src/site/limits.test.ts: a VM has %s from' },
    MEMORY_MIN_MIB: { crossed: '`API_BAD_REQUEST`', test: 'src/site/limits.test.ts: a VM has %s from' },
    MEMORY_MAX_MIB: {
      crossed: '`API_BAD_REQUEST`, `CONFIG_INVALID`',
      test: 'src/site/limits.test.ts: a VM has %s from',
    },
    MIGRATIONS_MAX: {
      crossed: '`MIGRATE_TOO_MANY`; at a target `PREPARE_BUSY`',
      test: 'src/site/migrate/checks.test.ts: PREPARE_BUSY',
    },
    SOURCE_MOVER_TIMEOUT_MS: {
      crossed: '`PREPARE_ABANDONED`, the target is clean again',
      test: 'src/site/migrate/manager.test.ts: when the source never comes',
    },
    PREPARE_TIMEOUT_MS: { crossed: '`RPC_TIMEOUT`; the VM stays where it is' },
    ABORT_TIMEOUT_MS: { crossed: 'the target is not told, and cleans up by itself' },
    PEER_CALL_TIMEOUT_MS: { crossed: '`RPC_TIMEOUT`' },
    STOP_GRACE_MS: {
      crossed: 'QEMU quits',
      test: 'src/site/api/server.test.ts: switches off a guest that does not obey its power button',
    },
    DISK_RESERVE_BYTES: {
      crossed: '`PREPARE_NO_DISK`',
      test: 'src/site/migrate/checks.test.ts: PREPARE_NO_DISK',
    },
    EXPORT_HEADROOM_BYTES: {
      crossed: '`DISK_TOO_LARGE` at the freeze; the VM goes on at the source',
      test: 'test/migration/disk.test.ts: refuses an overlay larger than announced',
    },
    RECORDS_KEPT: { crossed: 'the oldest are removed' },
    QEMU_PROBE_TIMEOUT_MS: { crossed: 'the agent does not start, and says why' },
    DISK_TOOL_TIMEOUT_MS: { crossed: '`PROGRAM_FAILED`' },
    TOMBSTONES_MAX: { crossed: 'the oldest are forgotten' },
    MIGRATIONS_LISTED: { crossed: 'older ones are not listed' },
    GATEWAY_START_TIMEOUT_MS: { crossed: '`SITE_GATEWAY`' },
    API_ANSWER_MAX_BYTES: { crossed: '`API_BAD_ANSWER`' },
    API_TIMEOUT_MS: { crossed: '`SITE_UNREACHABLE`' },
    SWITCH_BUDGET_MAX_MS: {
      crossed: '`API_BAD_REQUEST`',
      test: 'src/site/limits.test.ts: the budget of a switch',
    },
    EMPTY_DISKS_KEPT: { crossed: '`qemu-img` makes further ones each time' },
    EMPTY_DISK_MAX_BYTES: { crossed: '`qemu-img` makes it each time', why: 'Size of such a file' },
    MACHINES_REMEMBERED: { crossed: 'further ones are checked each time' },
    TEMPLATE_AFTER_MAX_S: {
      crossed: '`API_BAD_REQUEST`',
      test: 'src/site/limits.test.ts: a guest is frozen within an hour',
    },
    TEMPLATE_READY_TIMEOUT_MS: { crossed: '`TEMPLATE_NOT_READY`' },
    TEMPLATE_BUILDS_KEPT: { crossed: 'the oldest are forgotten' },
  },
  'src/wire/bitmap.ts': {
    MAX_BITMAP_BITS: {
      crossed: '`BITMAP_INVALID`; `RangeError` for our own code',
      test: 'src/wire/bitmap.test.ts: treats an index outside as a defect of the caller',
    },
  },
  'src/wire/codec.ts': {
    BLOCK_MAX_BYTES: {
      crossed: '`CODEC_TOO_LARGE`',
      test: 'src/wire/codec.test.ts: a length other than announced is refused',
    },
    ZSTD_MAX_LEVEL: { crossed: 'lowered to it', why: 'Highest compression level' },
    ZSTD_WINDOW_LOG_MAX: {
      crossed: '`CODEC_CORRUPT`',
      why: 'Memory that a block from a peer may make the decoder use: 8 MiB',
    },
  },
  'src/wire/stage/constants.ts': {
    MAX_STAGE_BYTES: {
      crossed: '`STAGE_FRAME_INVALID`',
      test: 'src/wire/stage/frames.test.ts: hold their limits before they unpack',
    },
  },
  'src/wire/disk/constants.ts': {
    MAX_FILE_BYTES: {
      crossed: '`DISK_OUT_OF_RANGE`',
      test: 'src/wire/disk/frames.test.ts: holds its limits',
    },
    MAX_EXTENT_BYTES: {
      crossed: '`DISK_OUT_OF_RANGE`',
      test: 'src/wire/disk/frames.test.ts: holds its limits',
    },
    MAX_ZERO_SECTORS: {
      crossed: '`DISK_OUT_OF_RANGE`',
      test: 'src/wire/limits.test.ts: disk: sectors in a frame of zeros',
    },
    MAX_CONTENT_SECTORS: {
      crossed: '`DISK_OUT_OF_RANGE`',
      test: 'src/wire/disk/content.test.ts: holds its limits',
    },
    MAX_METADATA_EXTENT_BYTES: {
      crossed: '`DISK_OUT_OF_RANGE`',
      test: 'src/wire/limits.test.ts: disk: sectors in a frame of zeros',
    },
    MAX_AHEAD_BYTES: {
      crossed: 'the rest goes with the freeze; from a peer `DISK_LIMIT`',
      test: 'test/migration/disk-hostile.test.ts: keeps no more metadata ahead than it says',
    },
    MAX_METADATA_BYTES: {
      crossed: '`DISK_OUT_OF_RANGE`',
      test: 'src/wire/disk/frames.test.ts: holds its limits',
    },
    MAX_PULL_SECTORS: {
      crossed: '`DISK_OUT_OF_RANGE`',
      test: 'src/wire/disk/frames.test.ts: holds its limits',
    },
    MAX_SYN_RUNS: {
      crossed: '`DISK_FRAME_INVALID`',
      test: 'src/wire/limits.test.ts: disk: sectors in a frame of zeros',
    },
  },
  'src/wire/link/constants.ts': {
    MAX_MESSAGE_BYTES: {
      crossed: '`LINK_MESSAGE_TOO_LARGE`',
      test: 'test/link/session.test.ts: up to the limit pass, larger ones are refused',
    },
    MAX_FRAGMENT_BYTES: {
      crossed: '`LINK_BAD_FRAME`',
      test: 'src/wire/link/codec.test.ts: the sizes of DATA are checked before any of it is kept',
    },
    MAX_SESSION_ID_BYTES: {
      crossed: '`LINK_BAD_ARGUMENT`',
      test: 'src/wire/link/codec.test.ts: the encoder refuses what the parser would refuse',
    },
    MAX_SITE_ID_BYTES: {
      crossed: '`LINK_BAD_ARGUMENT`',
      test: 'src/wire/limits.test.ts: link: names and codes in frames',
    },
    MAX_CLOSE_TEXT_BYTES: {
      crossed: 'cut at a character',
      test: 'src/wire/link/codec.test.ts: a long explanation in CLOSE is cut at a character',
    },
    MAX_CLOSE_CODE_BYTES: {
      crossed: '`LINK_BAD_ARGUMENT`',
      test: 'src/wire/limits.test.ts: link: names and codes in frames',
    },
    MAX_HELLO_BYTES: {
      crossed: '`LINK_BAD_FRAME`',
      test: 'src/wire/link/codec.test.ts: a HELLO above its limit',
    },
    MAX_ROUTE_BYTES: { crossed: '`LINK_BAD_PREAMBLE`', test: 'src/wire/link/codec.test.ts: a long route' },
  },
  'src/wire/link/preamble.ts': {
    MAX_PREAMBLE_BYTES: {
      crossed: '`LINK_BAD_PREAMBLE`',
      test: 'src/wire/link/codec.test.ts: a long route',
      why: 'What a gateway reads before it knows the route',
    },
  },
  'src/wire/nbd/constants.ts': {
    NBD_MAX_REQUEST_BYTES: {
      crossed: '`NBD_TOO_LARGE`, the connection ends',
      test: 'src/nbd/server.test.ts: a write above the limit',
    },
    NBD_MAX_STRING_BYTES: {
      crossed: '`NBD_TOO_LARGE`',
      test: 'src/wire/limits.test.ts: NBD: meta context queries',
    },
    NBD_MAX_OPTION_BYTES: {
      crossed: '`NBD_TOO_LARGE`, the connection ends',
      test: 'src/wire/nbd/codec.test.ts: announced lengths above the limits fail before any data',
    },
    NBD_MAX_OPTION_REPLY_BYTES: {
      crossed: '`NBD_TOO_LARGE`, the connection ends',
      test: 'src/wire/nbd/codec.test.ts: announced lengths above the limits fail before any data',
    },
    NBD_MAX_META_QUERIES: {
      crossed: '`NBD_TOO_LARGE`',
      test: 'src/wire/limits.test.ts: NBD: meta context queries',
    },
    NBD_MAX_INFO_REQUESTS: {
      crossed: '`NBD_TOO_LARGE`',
      test: 'src/wire/limits.test.ts: NBD: meta context queries',
    },
    NBD_MAX_CHUNK_EXTENTS: {
      crossed: '`NBD_TOO_LARGE`',
      test: 'src/wire/limits.test.ts: NBD: meta context queries',
    },
    NBD_MAX_READ_CHUNKS: { crossed: '`NBD_TOO_LARGE`' },
    NBD_MAX_CHUNK_BYTES: {
      crossed: '`NBD_TOO_LARGE`, the connection ends',
      test: 'src/wire/nbd/codec.test.ts: announced lengths above the limits fail before any data',
    },
  },
  'src/wire/qcow2/constants.ts': {
    MIN_CLUSTER_BITS: { crossed: '`QCOW2_INVALID`', test: 'src/wire/qcow2/qcow2.test.ts: tiny clusters' },
    MAX_CLUSTER_BITS: { crossed: '`QCOW2_INVALID`', test: 'src/wire/qcow2/qcow2.test.ts: huge clusters' },
    MAX_L1_BYTES: { crossed: '`QCOW2_LIMIT`', test: 'src/wire/qcow2/qcow2.test.ts: a huge L1' },
    MAX_REFCOUNT_TABLE_BYTES: {
      crossed: '`QCOW2_LIMIT`',
      test: 'src/wire/qcow2/qcow2.test.ts: a huge refcount table',
    },
    MAX_BACKING_NAME_BYTES: {
      crossed: '`QCOW2_INVALID`',
      test: 'src/wire/qcow2/qcow2.test.ts: a long backing name',
    },
    MAX_VIRTUAL_BYTES: { crossed: '`QCOW2_LIMIT`', test: 'src/wire/qcow2/qcow2.test.ts: a huge disk' },
  },
  'src/wire/qemu-stream/batch.ts': {
    SPARE_MAX: { crossed: 'the buffer is let go', why: 'Buffers kept for the next frames’ bodies' },
  },
  'src/wire/qemu-stream/continuity.ts': {
    CONTINUITY_MAX_PAGES: {
      crossed: 'names that QEMU 7 leaves out are not put in',
      test: 'src/wire/qemu-stream/continuity.test.ts: a machine of more memory than account is kept of, and nonsense, change nothing',
    },
  },
  'src/wire/qemu-stream/constants.ts': {
    PAGE_NUMBER_LIMIT: { crossed: '`STREAM_FRAME_CORRUPT`' },
    PACKAGED_MAX_BYTES: {
      crossed: '`STREAM_PACKAGED_TOO_LARGE`',
      test: 'src/wire/qemu-stream/stream.test.ts: a device package above the limit is refused before it is buffered',
    },
    RAM_BLOCKS_MAX: {
      crossed: '`MOVER_QEMU_SOURCE`, before the switch',
      test: 'src/wire/limits.test.ts: stream: RAM blocks',
    },
    MACHINE_NAME_MAX_BYTES: {
      crossed: '`MOVER_QEMU_SOURCE`, before the switch',
      test: 'src/wire/qemu-stream/stream.test.ts: machine name length',
    },
    CAPABILITIES_MAX: {
      crossed: '`MOVER_QEMU_SOURCE`, before the switch',
      test: 'src/wire/qemu-stream/stream.test.ts: capabilities',
    },
    PACKED_PAGE_MAX_BYTES: {
      crossed: '`MOVER_QEMU_SOURCE`, before the switch',
      test: 'src/wire/qemu-stream/stream.test.ts: packed page length',
    },
    TRACKED_PAGES_MAX: { crossed: 'pages beyond count as new' },
    FRAME_RAW_MIN_BYTES: {
      crossed: 'raised to it',
      test: 'src/wire/limits.test.ts: stream: RAM blocks',
      why: 'Smallest frame size that may be asked for',
    },
    FRAME_RAW_MAX_BYTES: {
      crossed: 'lowered to it',
      test: 'src/wire/limits.test.ts: stream: RAM blocks',
      why: 'Largest frame size that may be asked for',
    },
    MEMORY_FRAME_RAW_LIMIT_BYTES: {
      crossed: '`STREAM_FRAME_TOO_LARGE`',
      test: 'src/wire/qemu-stream/decoder.test.ts: MEMORY_FRAME_RAW_LIMIT_BYTES',
    },
    PACKAGED_FRAME_RAW_BYTES: {
      crossed: 'the package goes in pieces',
      test: 'src/wire/qemu-stream/stream.test.ts: a package larger than a frame goes in pieces, all else as usual',
    },
    DEVICE_FRAME_RAW_LIMIT_BYTES: {
      crossed: '`STREAM_FRAME_TOO_LARGE`',
      test: 'src/wire/qemu-stream/decoder.test.ts: DEVICE_FRAME_RAW_LIMIT_BYTES',
    },
    REPEAT_WINDOW_MAX_PAGES: {
      crossed: '`MOVER_PROTOCOL`',
      why: 'Pages sent that either end of a channel keeps to be repeated',
    },
    RECV_BITMAP_MAX_BYTES: {
      crossed: '`STREAM_RETURN_PATH`',
      test: 'src/wire/qemu-stream/returnPath.test.ts: bitmap too long',
    },
  },
  'src/wire/qemu-stream/tokens.ts': {
    VARINT_MAX_BYTES: { crossed: '`STREAM_FRAME_CORRUPT`', why: 'Longest number in the tokens of a frame' },
    TOKEN_MAX_BYTES: { crossed: 'cannot be: it sizes a buffer', why: 'Longest token' },
  },
  'src/wire/qmp/constants.ts': {
    QMP_MAX_LINE_BYTES: {
      crossed: '`QMP_LINE_TOO_LONG`, the session ends',
      test: 'src/wire/limits.test.ts: QMP: the longest line',
    },
    QMP_MAX_COMMAND_BYTES: {
      crossed: '`QMP_UNSENDABLE`',
      test: 'src/wire/qmp/qmp.test.ts: QMP_MAX_COMMAND_BYTES',
    },
  },
  'src/wire/rle.ts': {
    RLE_MAX_BYTES: {
      crossed: 'not encoded: it goes as it is',
      test: 'src/wire/rle.test.ts: lengths: from one unit to the limit',
    },
  },
};

/** Paces, sizes of pieces and the like: crossing them means nothing. */
export const settings: Readonly<Record<string, readonly string[]>> = {
  'src/cli/kit/constants.ts': ['REDRAW_INTERVAL_MS', 'PLAIN_INTERVAL_MS'],
  'src/content/guests/constants.ts': ['DOWNLOAD_POLL_MS', 'LOCK_POLL_MS'],
  'src/content/images/constants.ts': ['COPY_CHUNK_BYTES'],
  'src/content/pages/constants.ts': [
    'READ_CHUNK_BYTES',
    'READS_AHEAD',
    'SLOT_BYTES',
    'SLOT_MIN_BYTES',
    'SLOTS_MAX',
  ],
  'src/content/residue/constants.ts': ['LOG_CHUNK_BYTES'],
  'src/content/staging/constants.ts': ['ZERO_RUN_BYTES', 'JOURNAL_BYTES'],
  'src/link/constants.ts': [
    'PEERS_WATCH_MS',
    'PING_INTERVAL_MS',
    'PING_BURST',
    'BACKOFF_MIN_MS',
    'BACKOFF_MAX_MS',
    'FIRST_LOOKS_MS',
    'FIRST_LOOK_PAUSE_MS',
    'WINDOW_START_BYTES',
    'QUEUE_TARGET_MS',
    'RATE_FILTER_ROUNDS',
    'MIN_RTT_EXPIRY_MS',
    'PROBE_EVERY_ROUNDS',
    'FRAGMENT_MIN_BYTES',
    'RPC_PING_INTERVAL_MS',
    'EMULATOR_QUEUE_MS',
    'EMULATOR_QUEUE_MIN_BYTES',
  ],
  'src/migration/disk/constants.ts': ['PULL_WORKERS', 'POLL_MIN_INTERVAL_MS', 'POLL_MAX_INTERVAL_MS'],
  'src/nbd/constants.ts': ['NBD_COALESCE_BYTES'],
  'src/qemu/constants.ts': ['QEMU_CONNECT_RETRY_MS', 'QEMU_WATCH_INTERVAL_MS', 'TCG_TB_SIZE_MIB'],
  'src/qemu/rfb/constants.ts': ['KEY_DELAY_MS'],
  'src/center/constants.ts': [
    'MOVE_POLL_MS',
    'PLACE_RETRY_MS',
    'FOLLOW_SWEEP_MS',
    'FOLLOW_SLICE',
    'FOLLOW_BACKOFF_MS',
    'DRAIN_SWEEP_MS',
  ],
  'src/control/constants.ts': [
    'HEARTBEAT_MS',
    'DEDUPE_WINDOW_MS',
    'RECONNECT_WAIT_MS',
    'NATS_WATCH_MS',
    'NATS_POLL_MS',
    'SETTLE_MS',
    'AT_ONCE_MAX',
  ],
  'src/registry/constants.ts': ['RENEWAL_LOOK_MS'],
  'src/portal/constants.ts': ['PAGE_ITEMS', 'LOGIN_WINDOW_MS', 'EVENT_KEEPALIVE_MS'],
  'src/host/constants.ts': ['VM_SCAN_MS', 'LINK_PROBE_MS', 'KEEP_CONNECTED_MS'],
  'src/mobility/constants.ts': [
    'PUBLISH_RETRY_MS',
    'SOURCE_RESTART_MS',
    'MEC_RETRY_MS',
    'FLAP_WINDOW_MS',
    'FLAP_SETTLE_MS',
  ],
  'src/schedule/constants.ts': ['RELIEVED_CPU', 'BALANCE_SPREAD_STOP', 'NEARER_BY_MS'],
  'src/site/constants.ts': [
    'CONNECT_POLL_MS',
    'EVENT_INTERVAL_MS',
    'GATEWAY_WATCH_INTERVAL_MS',
    'STAGE_STATUS_INTERVAL_MS',
    'TEMPLATE_READY_POLL_MS',
  ],
  'src/wire/qemu-stream/constants.ts': ['FRAME_RAW_BYTES', 'PACK_LATER_MIN_BYTES', 'REPEAT_WINDOW_PAGES'],
};

/** Numbers of formats and protocols, exit codes, identities: patterns of names, by file. */
export const notLimits: Readonly<Record<string, readonly string[]>> = {
  'src/content/pages/constants.ts': ['PAGE_BYTES', 'HASH_BYTES'],
  'src/cli/kit/constants.ts': ['EXIT_.*'],
  'src/content/guests/constants.ts': ['GUEST_EPOCH_S'],
  'src/link/emulator-direction.ts': ['SLICE_.*'],
  'src/link/session.ts': ['MAX_TIMER_MS'],
  'src/qemu/rfb/constants.ts': ['PIXEL_BYTES'],
  'src/wire/codec.ts': ['ZLIB_MIN_CHUNK_BYTES'],
  'src/wire/disk/constants.ts': ['DISK_.*', 'SECTOR_BYTES', 'CODEC_.*'],
  'src/wire/link/constants.ts': [
    '.*_VERSION',
    '.*_MAGIC',
    'PREFIX_BYTES',
    'DATA_HEADER_BYTES',
    'INSTANCE_BYTES',
  ],
  'src/wire/nbd/constants.ts': [
    '.*_MAGIC',
    '.*_HEADER_BYTES',
    '.*_(REPLY|PADDING)_BYTES',
    'GREETING_BYTES',
    'DIRTY',
  ],
  'src/wire/qcow2/constants.ts': ['QCOW2_MAGIC', '.*_HEADER_BYTES', 'INCOMPATIBLE_.*', 'SUBCLUSTERS'],
  'src/wire/qemu-stream/constants.ts': [
    'FILE_.*',
    'SECTION_.*',
    'RAM_[A-Z]+(_.*)?',
    'PAGE_BITS',
    'PAGE_BYTES',
    'COMMAND_.*',
  ],
  'src/wire/rle.ts': ['MAX_COUNT', 'MIN_WORD_RUN'],
  'src/wire/stage/constants.ts': ['STAGE_.*'],
};
