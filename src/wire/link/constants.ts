/** Version of the frame layout in this folder; see the versioning rule in frames.ts. */
export const LINK_VERSION = 1;
/** First bytes of every HELLO body, in all versions: `CAPL`. */
export const HELLO_MAGIC = 0x4341504c;
/** Bytes in front of every frame's body: kind, type, zero, body length. */
export const PREFIX_BYTES = 8;
/** Prefix and fixed fields of a DATA frame, in front of its piece of the message. */
export const DATA_HEADER_BYTES = 24;
/** Largest message (the switch-over package and batches of pages are far smaller). */
export const MAX_MESSAGE_BYTES = 8 * 1024 * 1024;
/** Largest piece of a message in one DATA frame: longer messages are cut up, so that credit is granted in small steps. */
export const MAX_FRAGMENT_BYTES = 64 * 1024;
/** Longest session id, in bytes of ASCII. */
export const MAX_SESSION_ID_BYTES = 64;
/** Longest site id, in bytes of ASCII. */
export const MAX_SITE_ID_BYTES = 64;
/** Longest explanation carried by CLOSE; the encoder cuts longer ones. */
export const MAX_CLOSE_TEXT_BYTES = 512;
/** Longest error code carried by CLOSE. */
export const MAX_CLOSE_CODE_BYTES = 64;
/** Largest HELLO body of any version. */
export const MAX_HELLO_BYTES = 1024;
/** Bytes of the random id by which one end of a session (one process) is told from its successor. */
export const INSTANCE_BYTES = 16;

/** First bytes that a gateway expects: `CAPG`. */
export const PREAMBLE_MAGIC = 0x43415047;
/** Version of the gateway preamble. */
export const PREAMBLE_VERSION = 1;
/** Longest route name. */
export const MAX_ROUTE_BYTES = 64;
