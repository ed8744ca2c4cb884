import {
  CHUNK_HEADER_BYTES,
  EXPORT_NAME_PADDING_BYTES,
  EXPORT_NAME_REPLY_BYTES,
  GREETING_BYTES,
  NBD_MAGIC,
  NBD_MAX_CHUNK_BYTES,
  NBD_MAX_OPTION_REPLY_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from './constants.ts';
import { exportSize } from './decode.ts';
import { fail } from './errors.ts';
import type { ChunkHeader, ServerToClientFrame } from './frames.ts';
import { StepParser, type Steps } from './step-parser.ts';

/** What the parser must know from the session, asked when a header is complete and before its data is buffered. */
export interface ReplyOracle {
  /** How many bytes follow a simple reply; throws for a cookie that is not in flight. */
  simplePayloadBytes(cookie: bigint, error: number): number;
  /** Throws for a chunk that cannot belong to any request in flight. */
  admitChunk(header: ChunkHeader): void;
}

type State =
  | 'greeting'
  | 'optionReply'
  | 'optionReplyData'
  | 'exportName'
  | 'exportNamePadding'
  | 'replyMagic'
  | 'simple'
  | 'simpleData'
  | 'chunk'
  | 'chunkData';

/**
 * Push parser of what a server sends: `push` the bytes as they arrive, then call `next` until it returns undefined.
 * After the greeting it reads option replies; the session calls `expectExportName` before it sends EXPORT_NAME and
 * `beginTransmission` when GO was acknowledged. `next` throws NBD_BAD_MAGIC, NBD_BAD_FRAME,
 * NBD_TOO_LARGE and what the oracle throws.
 */
export class ReplyParser extends StepParser<State, ServerToClientFrame> {
  readonly #oracle: ReplyOracle;
  #header: Buffer = Buffer.alloc(0);
  #noZeroes = false;
  protected override readonly steps: Steps<State, ServerToClientFrame> = {
    greeting: (bytes) => this.#greeting(bytes),
    optionReply: (header) => this.#optionReply(header),
    optionReplyData: (data) => {
      const [option, type] = [this.#header.readUInt32BE(8), this.#header.readUInt32BE(12)];
      this.expect('optionReply', OPTION_REPLY_HEADER_BYTES);
      return { kind: 'optionReply', option, type, data };
    },
    exportName: (bytes) => {
      this.#header = bytes;
      return this.expect('exportNamePadding', this.#noZeroes ? 0 : EXPORT_NAME_PADDING_BYTES);
    },
    exportNamePadding: () => {
      this.expect('replyMagic', 4);
      const sizeBytes = exportSize(this.#header.readBigUInt64BE(0));
      return { kind: 'exportName', sizeBytes, flags: this.#header.readUInt16BE(8) };
    },
    replyMagic: (bytes) => this.#replyMagic(bytes.readUInt32BE(0)),
    simple: (header) => this.#simple(header),
    simpleData: (payload) => {
      this.expect('replyMagic', 4);
      return simpleFrame(this.#header, payload);
    },
    chunk: (header) => this.#chunk(header),
    chunkData: (payload) => {
      this.expect('replyMagic', 4);
      return { kind: 'chunk', ...chunkHeader(this.#header), payload };
    },
  };

  constructor(oracle: ReplyOracle) {
    super('greeting', GREETING_BYTES);
    this.#oracle = oracle;
  }

  /** The next bytes answer EXPORT_NAME; transmission follows by itself. */
  expectExportName(noZeroes: boolean): void {
    this.#noZeroes = noZeroes;
    this.expect('exportName', EXPORT_NAME_REPLY_BYTES);
  }

  /** From here on the bytes are replies to requests. */
  beginTransmission(): void {
    this.expect('replyMagic', 4);
  }

  #greeting(bytes: Buffer): ServerToClientFrame {
    if (bytes.readBigUInt64BE(0) !== NBD_MAGIC || bytes.readBigUInt64BE(8) !== OPTION_MAGIC) {
      throw fail('NBD_BAD_MAGIC', 'magic of the greeting');
    }
    this.expect('optionReply', OPTION_REPLY_HEADER_BYTES);
    return { kind: 'greeting', flags: bytes.readUInt16BE(16) };
  }

  #optionReply(header: Buffer): undefined {
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC)
      throw fail('NBD_BAD_MAGIC', 'magic of an option reply');
    const length = header.readUInt32BE(16);
    if (length > NBD_MAX_OPTION_REPLY_BYTES) throw fail('NBD_TOO_LARGE', `option reply of ${length} bytes`);
    this.#header = header;
    return this.expect('optionReplyData', length);
  }

  #replyMagic(magic: number): undefined {
    if (magic === SIMPLE_REPLY_MAGIC) return this.expect('simple', SIMPLE_REPLY_BYTES - 4);
    if (magic === STRUCTURED_REPLY_MAGIC) return this.expect('chunk', CHUNK_HEADER_BYTES - 4);
    throw fail('NBD_BAD_MAGIC', 'magic of a reply');
  }

  #simple(header: Buffer): ServerToClientFrame | undefined {
    const length = this.#oracle.simplePayloadBytes(header.readBigUInt64BE(4), header.readUInt32BE(0));
    if (length === 0) {
      this.expect('replyMagic', 4);
      return simpleFrame(header, undefined);
    }
    this.#header = header;
    return this.expect('simpleData', length);
  }

  #chunk(header: Buffer): undefined {
    const { lengthBytes } = chunkHeader(header);
    if (lengthBytes > NBD_MAX_CHUNK_BYTES) throw fail('NBD_TOO_LARGE', `chunk of ${lengthBytes} bytes`);
    this.#oracle.admitChunk(chunkHeader(header));
    this.#header = header;
    return this.expect('chunkData', lengthBytes);
  }
}

function simpleFrame(header: Buffer, payload: Buffer | undefined): ServerToClientFrame {
  return { kind: 'simple', error: header.readUInt32BE(0), cookie: header.readBigUInt64BE(4), payload };
}

function chunkHeader(header: Buffer): ChunkHeader {
  return {
    flags: header.readUInt16BE(0),
    type: header.readUInt16BE(2),
    cookie: header.readBigUInt64BE(4),
    lengthBytes: header.readUInt32BE(12),
  };
}
