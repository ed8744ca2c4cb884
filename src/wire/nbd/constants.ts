/**
 * Network Block Device, fixed newstyle: numbers and limits (NetworkBlockDevice/nbd, doc/proto.md). All fields are
 * big endian.
 *
 * ```
 * server                                              client
 *   | u64 'NBDMAGIC' u64 'IHAVEOPT' u16 handshake flags -> |
 *   | <- u32 client flags                                  |
 *   |          option haggling, one at a time              |
 *   | <- u64 'IHAVEOPT' u32 option u32 length data         |
 *   | u64 reply magic u32 option u32 type u32 length data -> (one or more; ACK or an error is the last)
 *   |          after GO is acknowledged: transmission      |
 *   | <- u32 magic u16 flags u16 command u64 cookie u64 offset u32 length [data of WRITE]
 *   | simple:     u32 magic u32 error u64 cookie [data of READ] ->
 *   | structured: u32 magic u16 flags u16 type u64 cookie u32 length payload -> (chunks; flag DONE ends the reply)
 * ```
 * Replies come in any order; the cookie pairs them with requests.
 */
export const NBD_MAGIC = 0x4e42444d41474943n;
export const OPTION_MAGIC = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const GREETING_BYTES = 18;
export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
export const REQUEST_HEADER_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/** Reply to EXPORT_NAME: size and flags, then 124 zeroes unless both sides agreed to leave them out. */
export const EXPORT_NAME_REPLY_BYTES = 10;
export const EXPORT_NAME_PADDING_BYTES = 124;

/** Handshake flags of the server; the client's flags have the same bits. */
export const HANDSHAKE = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const OPTION = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const;

export const OPTION_REPLY = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERROR_BIT: 0x8000_0000,
  ERR_UNSUP: 0x8000_0001,
  ERR_POLICY: 0x8000_0002,
  ERR_INVALID: 0x8000_0003,
  ERR_PLATFORM: 0x8000_0004,
  ERR_TLS_REQD: 0x8000_0005,
  ERR_UNKNOWN: 0x8000_0006,
  ERR_SHUTDOWN: 0x8000_0007,
  ERR_BLOCK_SIZE_REQD: 0x8000_0008,
  ERR_TOO_BIG: 0x8000_0009,
} as const;

export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const TRANSMISSION = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_FUA: 8,
  ROTATIONAL: 16,
  SEND_TRIM: 32,
  SEND_WRITE_ZEROES: 64,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
  SEND_CACHE: 1024,
  SEND_FAST_ZERO: 2048,
} as const;

export const COMMAND = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

export const COMMAND_FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 } as const;

export const CHUNK_FLAG = { DONE: 1 } as const;

export const CHUNK = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR_BIT: 0x8000,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

/** Error numbers of replies (proto.md, "Error values"). */
export const NBD_ERRNO = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;
export type NbdErrnoName = keyof typeof NBD_ERRNO;

/** The name of an error number, or `errno N` for one that the specification does not list. */
export function errnoName(errno: number): string {
  for (const [name, value] of Object.entries(NBD_ERRNO)) if (value === errno) return name;
  return `errno ${errno}`;
}

export const CONTEXT_BASE_ALLOCATION = 'base:allocation';
/** QEMU: flags = number of layers down to the one that allocates the block; 0 = unallocated, 1 = top. */
export const CONTEXT_ALLOCATION_DEPTH = 'qemu:allocation-depth';
/** QEMU: `qemu:dirty-bitmap:NAME`, flag bit 0 = dirty. */
export const CONTEXT_DIRTY_BITMAP_PREFIX = 'qemu:dirty-bitmap:';
/** Flags of `base:allocation`. */
export const ALLOCATION = { HOLE: 1, ZERO: 2 } as const;
/** Flag of `qemu:dirty-bitmap:NAME`. */
export const DIRTY = 1;

/** Largest payload of a READ or WRITE: what the specification lets a client rely on without negotiation. */
export const NBD_MAX_REQUEST_BYTES = 32 * 1024 * 1024;
/** Longest string of the protocol (export name, description, meta context, error message). */
export const NBD_MAX_STRING_BYTES = 4096;
/** Longest data of one option that a client may send; a longer one ends the connection before it is buffered. */
export const NBD_MAX_OPTION_BYTES = 64 * 1024;
/** Longest data of one option reply that a server may send: a name and a description with their lengths. */
export const NBD_MAX_OPTION_REPLY_BYTES = 2 * NBD_MAX_STRING_BYTES + 64;
/** Most queries of one LIST_META_CONTEXT or SET_META_CONTEXT. */
export const NBD_MAX_META_QUERIES = 64;
/** Most information requests of one INFO or GO. */
export const NBD_MAX_INFO_REQUESTS = 64;
/** Most extents of one BLOCK_STATUS chunk (proto.md: a server should not send more than 2^20). */
export const NBD_MAX_CHUNK_EXTENTS = 2 ** 20;
/** Most chunks of one READ reply: a hole or a piece of data for each 512-byte sector of the largest request. */
export const NBD_MAX_READ_CHUNKS = NBD_MAX_REQUEST_BYTES / 512 + 1;
/** Longest payload of one chunk that a server may send, whatever the request was. */
export const NBD_MAX_CHUNK_BYTES = NBD_MAX_REQUEST_BYTES + 8;
