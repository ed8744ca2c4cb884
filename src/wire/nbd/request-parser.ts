import {
  COMMAND,
  NBD_MAX_OPTION_BYTES,
  NBD_MAX_REQUEST_BYTES,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  REQUEST_HEADER_BYTES,
  REQUEST_MAGIC,
} from './constants.ts';
import { ByteQueue } from './byte-queue.ts';
import { readOffset } from './decode.ts';
import { fail } from './errors.ts';
import type { ClientToServerFrame } from './frames.ts';

type State = 'clientFlags' | 'option' | 'optionData' | 'request' | 'requestData';

/**
 * Push parser of what a client sends: `push` the bytes as they arrive, then call `next` until it returns undefined.
 * The reader decides when to call `next`, so a busy server simply stops calling. Once the server has acknowledged GO
 * or EXPORT_NAME it calls `beginTransmission`. Limits are checked as soon as a header is complete, before its data
 * is buffered. Errors are final: each later `next` throws the same.
 */
export class RequestParser {
  readonly #queue = new ByteQueue();
  readonly #maxRequestBytes: number;
  #state: State = 'clientFlags';
  #need = 4;
  #header: Buffer = Buffer.alloc(0);
  #failure: Error | undefined;
  /** What each state does with the bytes that it waited for. */
  readonly #steps: Readonly<Record<State, (bytes: Buffer) => ClientToServerFrame | undefined>> = {
    clientFlags: (bytes) => {
      this.#expect('option', OPTION_HEADER_BYTES);
      return { kind: 'clientFlags', flags: bytes.readUInt32BE(0) };
    },
    option: (header) => this.#optionHeader(header),
    optionData: (data) => {
      this.#expect('option', OPTION_HEADER_BYTES);
      return { kind: 'option', option: this.#header.readUInt32BE(8), data };
    },
    request: (header) => this.#requestHeader(header),
    requestData: (payload) => {
      this.#expect('request', REQUEST_HEADER_BYTES);
      return requestFrame(this.#header, payload);
    },
  };

  constructor(options: { maxRequestBytes?: number } = {}) {
    this.#maxRequestBytes = options.maxRequestBytes ?? NBD_MAX_REQUEST_BYTES;
  }

  /** Bytes that have arrived and are not part of a frame yet. */
  get bufferedBytes(): number {
    return this.#queue.length;
  }

  push(chunk: Buffer): void {
    this.#queue.push(chunk);
  }

  /** From here on the bytes are requests. */
  beginTransmission(): void {
    this.#expect('request', REQUEST_HEADER_BYTES);
  }

  /** @throws NBD_BAD_MAGIC, NBD_TOO_LARGE */
  next(): ClientToServerFrame | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      while (this.#queue.length >= this.#need) {
        const frame = this.#steps[this.#state](this.#queue.take(this.#need));
        if (frame !== undefined) return frame;
      }
      return undefined;
    } catch (error) {
      this.#failure = error as Error;
      this.#queue.clear();
      throw error;
    }
  }

  #expect(state: State, need: number): undefined {
    this.#state = state;
    this.#need = need;
    return undefined;
  }

  #optionHeader(header: Buffer): undefined {
    if (header.readBigUInt64BE(0) !== OPTION_MAGIC) throw fail('NBD_BAD_MAGIC', 'magic of an option');
    const length = header.readUInt32BE(12);
    if (length > NBD_MAX_OPTION_BYTES) throw fail('NBD_TOO_LARGE', `option data of ${length} bytes`);
    this.#header = header;
    return this.#expect('optionData', length);
  }

  #requestHeader(header: Buffer): ClientToServerFrame | undefined {
    if (header.readUInt32BE(0) !== REQUEST_MAGIC) throw fail('NBD_BAD_MAGIC', 'magic of a request');
    const length = header.readUInt32BE(24);
    if (header.readUInt16BE(6) !== COMMAND.WRITE) return requestFrame(header, undefined);
    if (length > this.#maxRequestBytes) throw fail('NBD_TOO_LARGE', `write of ${length} bytes`);
    this.#header = header;
    return this.#expect('requestData', length);
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
