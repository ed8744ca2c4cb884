/** What the server says first. */
export interface Greeting {
  readonly kind: 'greeting';
  /** `HANDSHAKE` bits. */
  readonly flags: number;
}

/** The client's answer to the greeting. */
export interface ClientFlags {
  readonly kind: 'clientFlags';
  /** `HANDSHAKE` bits. */
  readonly flags: number;
}

/** One step of option haggling, client to server. */
export interface OptionFrame {
  readonly kind: 'option';
  /** A value of `OPTION`, or one that we do not know. */
  readonly option: number;
  readonly data: Buffer;
}

/** One answer to an option, server to client. */
export interface OptionReply {
  readonly kind: 'optionReply';
  readonly option: number;
  /** A value of `OPTION_REPLY`; errors have `ERROR_BIT`. */
  readonly type: number;
  readonly data: Buffer;
}

/** The answer to EXPORT_NAME. */
export interface ExportNameReply {
  readonly kind: 'exportName';
  readonly sizeBytes: number;
  /** `TRANSMISSION` bits. */
  readonly flags: number;
}

/** One request of the transmission phase. */
export interface RequestFrame {
  readonly kind: 'request';
  /** A value of `COMMAND`, or one that we do not know. */
  readonly command: number;
  /** `COMMAND_FLAG` bits. */
  readonly flags: number;
  readonly cookie: bigint;
  /** Bytes. Exact up to 2^53; what lies above is rounded, and beyond the end of any export. */
  readonly offset: number;
  readonly lengthBytes: number;
  /** The data of a WRITE, `lengthBytes` long. It may share memory with its neighbours on the wire. */
  readonly payload: Buffer | undefined;
}

/** The short form of a reply. */
export interface SimpleReply {
  readonly kind: 'simple';
  /** 0 or an `NBD_ERRNO`. */
  readonly error: number;
  readonly cookie: bigint;
  /** The data of a READ. */
  readonly payload: Buffer | undefined;
}

export interface ChunkHeader {
  /** `CHUNK_FLAG` bits. */
  readonly flags: number;
  /** A value of `CHUNK`, or one that we do not know. */
  readonly type: number;
  readonly cookie: bigint;
  readonly lengthBytes: number;
}

/** One chunk of a structured reply. */
export interface Chunk extends ChunkHeader {
  readonly kind: 'chunk';
  readonly payload: Buffer;
}

export type ClientToServerFrame = ClientFlags | OptionFrame | RequestFrame;
export type ServerToClientFrame = Greeting | OptionReply | ExportNameReply | SimpleReply | Chunk;

/** The data of INFO and GO. */
export interface InfoRequest {
  readonly name: string;
  /** Values of `INFO`. */
  readonly requests: readonly number[];
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/** One block of a BLOCK_STATUS chunk, in wire order without an offset. */
export interface StatusDescriptor {
  readonly lengthBytes: number;
  readonly flags: number;
}

/** One run of blocks with the same status. */
export interface NbdExtent {
  readonly offset: number;
  readonly lengthBytes: number;
  /** Meaning depends on the meta context: `ALLOCATION` bits, a depth, or `DIRTY`. */
  readonly flags: number;
}

/** The size constraints of an export, bytes. */
export interface BlockSizes {
  readonly minimumBytes: number;
  readonly preferredBytes: number;
  readonly maximumBytes: number;
}
