import {
  COMMAND,
  NBD_MAX_OPTION_BYTES,
  NBD_MAX_REQUEST_BYTES,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  REQUEST_HEADER_BYTES,
  REQUEST_MAGIC,
} from './constants.ts';
import { readOffset } from './decode.ts';
import { fail } from './errors.ts';
import type { ClientToServerFrame } from './frames.ts';
import { StepParser, type Steps } from './step-parser.ts';

type State = 'clientFlags' | 'option' | 'optionData' | 'request' | 'requestData';

/**
 * Push parser of what a client sends: `push` the bytes as they arrive, then call `next` until it returns undefined.
 * The reader decides when to call `next`, so a busy server simply stops calling. Once the server has acknowledged GO
 * or EXPORT_NAME it calls `beginTransmission`. Limits are checked as soon as a header is complete, before its data
 * is buffered. `next` throws NBD_BAD_MAGIC, NBD_TOO_LARGE.
 */
export class RequestParser extends StepParser<State, ClientToServerFrame> {
  readonly #maxRequestBytes: number;
  #header: Buffer = Buffer.alloc(0);
  protected override readonly steps: Steps<State, ClientToServerFrame> = {
    clientFlags: (bytes) => {
      this.expect('option', OPTION_HEADER_BYTES);
      return { kind: 'clientFlags', flags: bytes.readUInt32BE(0) };
    },
    option: (header) => this.#optionHeader(header),
    optionData: (data) => {
      this.expect('option', OPTION_HEADER_BYTES);
      return { kind: 'option', option: this.#header.readUInt32BE(8), data };
    },
    request: (header) => this.#requestHeader(header),
    requestData: (payload) => {
      this.expect('request', REQUEST_HEADER_BYTES);
      return requestFrame(this.#header, payload);
    },
  };

  constructor(options: { maxRequestBytes?: number } = {}) {
    super('clientFlags', 4);
    this.#maxRequestBytes = options.maxRequestBytes ?? NBD_MAX_REQUEST_BYTES;
  }

  /** From here on the bytes are requests. */
  beginTransmission(): void {
    this.expect('request', REQUEST_HEADER_BYTES);
  }

  #optionHeader(header: Buffer): undefined {
    if (header.readBigUInt64BE(0) !== OPTION_MAGIC) throw fail('NBD_BAD_MAGIC', 'magic of an option');
    const length = header.readUInt32BE(12);
    if (length > NBD_MAX_OPTION_BYTES) throw fail('NBD_TOO_LARGE', `option data of ${length} bytes`);
    this.#header = header;
    return this.expect('optionData', length);
  }

  #requestHeader(header: Buffer): ClientToServerFrame | undefined {
    if (header.readUInt32BE(0) !== REQUEST_MAGIC) throw fail('NBD_BAD_MAGIC', 'magic of a request');
    const length = header.readUInt32BE(24);
    if (header.readUInt16BE(6) !== COMMAND.WRITE) return requestFrame(header, undefined);
    if (length > this.#maxRequestBytes) throw fail('NBD_TOO_LARGE', `write of ${length} bytes`);
    this.#header = header;
    return this.expect('requestData', length);
  }
}

function requestFrame(header: Buffer, payload: Buffer | undefined): ClientToServerFrame {
  return {
    kind: 'request',
    flags: header.readUInt16BE(4),
    command: header.readUInt16BE(6),
    cookie: header.readBigUInt64BE(8),
    offset: readOffset(header, 16),
    lengthBytes: header.readUInt32BE(24),
    payload,
  };
}
