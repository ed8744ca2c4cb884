import { CHUNK, CHUNK_FLAG, NBD_MAX_READ_CHUNKS, NBD_MAX_STRING_BYTES, errnoName } from './constants.ts';
import { Coverage } from './coverage.ts';
import { decodeDataChunk, decodeErrorChunk, decodeHoleChunk, decodeStatusChunk } from './decode.ts';
import { fail } from './errors.ts';
import type { Chunk, ChunkHeader, SimpleReply, StatusDescriptor } from './frames.ts';

/** Room for what future error types may append to message and offset. */
const ERROR_TAIL_BYTES = 64;

/**
 * Puts the reply to one request together and checks it against the request (proto.md "Structured reply types";
 * libnbd's reply states). A rule broken by the server throws NBD_BAD_FRAME: the connection cannot be trusted any
 * more. An error answered by the server is an ordinary outcome: `result` throws NBD_REQUEST_FAILED.
 */
export abstract class ReplyAssembly<T> {
  readonly command: string;
  #error: { errno: number; message: string; offset: number | undefined } | undefined;
  #chunks = 0;

  constructor(command: string) {
    this.command = command;
  }

  /** Bytes behind a simple reply. @throws NBD_BAD_FRAME where only a structured reply is allowed */
  simplePayloadBytes(error: number): number {
    return error === 0 ? this.simpleSuccessBytes() : 0;
  }

  /** Checks a chunk's header before its payload is buffered. @throws NBD_BAD_FRAME */
  admit(header: ChunkHeader): void {
    const { type, lengthBytes } = header;
    this.#chunks += 1;
    if (this.#chunks > NBD_MAX_READ_CHUNKS) throw fail('NBD_TOO_LARGE', 'chunks of one reply');
    if (type === CHUNK.NONE) {
      if (lengthBytes !== 0) throw this.broken('a chunk of type NONE has a payload');
      if ((header.flags & CHUNK_FLAG.DONE) === 0) throw this.broken('a chunk of type NONE is not the last');
    } else if ((type & CHUNK.ERROR_BIT) !== 0) {
      if (lengthBytes > 6 + NBD_MAX_STRING_BYTES + 8 + ERROR_TAIL_BYTES) {
        throw this.broken(`an error chunk has ${lengthBytes} bytes`);
      }
    } else this.admitContent(type, lengthBytes);
  }

  /** Takes a part of the reply; true when it was the last. @throws NBD_BAD_FRAME */
  accept(frame: SimpleReply | Chunk): boolean {
    if (frame.kind === 'simple') {
      if (frame.error !== 0) this.#error = { errno: frame.error, message: '', offset: undefined };
      else this.succeed(frame.payload);
      return true;
    }
    if ((frame.type & CHUNK.ERROR_BIT) !== 0) this.#takeError(frame);
    else if (frame.type !== CHUNK.NONE) this.content(frame.type, frame.payload);
    if ((frame.flags & CHUNK_FLAG.DONE) === 0) return false;
    if (this.#error === undefined) this.finish();
    return true;
  }

  /** The outcome of a complete reply. @throws NBD_REQUEST_FAILED (fields `errno`, `errnoName`, `offset`) */
  result(): T {
    if (this.#error === undefined) return this.value();
    const { errno, message, offset } = this.#error;
    const name = errnoName(errno);
    const detail = `${this.command}: ${name}${message === '' ? '' : ` (${message})`}`;
    throw fail('NBD_REQUEST_FAILED', detail, { fields: { errno, errnoName: name, offset } });
  }

  protected abstract simpleSuccessBytes(): number;
  protected abstract admitContent(type: number, lengthBytes: number): void;
  protected abstract succeed(payload: Buffer | undefined): void;
  protected abstract content(type: number, payload: Buffer): void;
  /** Called at the end of a structured reply without an error: is everything there? */
  protected abstract finish(): void;
  protected abstract value(): T;

  protected broken(rule: string): Error {
    return fail('NBD_BAD_FRAME', `${this.command}: ${rule}`);
  }

  protected checkInside(offset: number, lengthBytes: number, from: number, requestedBytes: number): void {
    if (offset < from || offset + lengthBytes > from + requestedBytes) {
      throw this.broken(
        `[${offset}, +${lengthBytes}) lies outside the request [${from}, +${requestedBytes})`,
      );
    }
  }

  #takeError(chunk: Chunk): void {
    const { error, message, offset } = decodeErrorChunk(chunk.payload, chunk.type === CHUNK.ERROR_OFFSET);
    this.checkErrorOffset(offset);
    this.#error ??= { errno: error, message, offset };
  }

  protected checkErrorOffset(_offset: number | undefined): void {}
}

/** WRITE, FLUSH, TRIM, WRITE_ZEROES: success or an error, nothing else. */
export class PlainAssembly extends ReplyAssembly<void> {
  protected simpleSuccessBytes(): number {
    return 0;
  }
  protected admitContent(type: number): void {
    throw this.broken(`unexpected chunk of type ${type}`);
  }
  protected succeed(): void {}
  protected content(): void {}
  protected finish(): void {}
  protected value(): void {}
}

/** READ. The data may be a part of a larger buffer of the socket; copy it to keep it for long. */
export class ReadAssembly extends ReplyAssembly<Buffer> {
  readonly #offset: number;
  readonly #lengthBytes: number;
  readonly #structured: boolean;
  #data: Buffer | undefined;
  #coverage: Coverage | undefined;

  constructor(offset: number, lengthBytes: number, structured: boolean) {
    super('READ');
    this.#offset = offset;
    this.#lengthBytes = lengthBytes;
    this.#structured = structured;
  }

  protected simpleSuccessBytes(): number {
    if (this.#structured) throw this.broken('a simple reply although structured replies were agreed');
    return this.#lengthBytes;
  }

  protected admitContent(type: number, lengthBytes: number): void {
    if (type === CHUNK.OFFSET_HOLE && lengthBytes === 12) return;
    const fits = lengthBytes >= 9 && lengthBytes - 8 <= this.#lengthBytes;
    if (type === CHUNK.OFFSET_DATA && fits) return;
    throw this.broken(`unexpected chunk of type ${type} with ${lengthBytes} bytes`);
  }

  protected succeed(payload: Buffer | undefined): void {
    this.#data = payload;
  }

  protected content(type: number, payload: Buffer): void {
    if (type === CHUNK.OFFSET_HOLE) {
      const { offset, lengthBytes } = decodeHoleChunk(payload);
      const start = this.#claim(offset, lengthBytes);
      this.#target().fill(0, start, start + lengthBytes);
      return;
    }
    const { offset, data } = decodeDataChunk(payload);
    const start = this.#claim(offset, data.length);
    // the usual case: one chunk with all of it, handed on without a copy
    if (data.length === this.#lengthBytes) this.#data = data;
    else data.copy(this.#target(), start);
  }

  protected finish(): void {
    const covered = this.#coverage?.coveredBytes ?? 0;
    if (covered !== this.#lengthBytes)
      throw this.broken(`only ${covered} of ${this.#lengthBytes} bytes arrived`);
  }

  protected value(): Buffer {
    return this.#data ?? Buffer.alloc(0);
  }

  protected override checkErrorOffset(offset: number | undefined): void {
    if (offset !== undefined) this.checkInside(offset, 0, this.#offset, this.#lengthBytes);
  }

  #claim(offset: number, lengthBytes: number): number {
    this.checkInside(offset, lengthBytes, this.#offset, this.#lengthBytes);
    const start = offset - this.#offset;
    this.#coverage ??= new Coverage();
    this.#coverage.add(start, start + lengthBytes);
    return start;
  }

  #target(): Buffer {
    this.#data ??= Buffer.allocUnsafe(this.#lengthBytes);
    return this.#data;
  }
}

/** BLOCK_STATUS: the descriptors of each agreed context, by context id. */
export class StatusAssembly extends ReplyAssembly<ReadonlyMap<number, readonly StatusDescriptor[]>> {
  readonly #lengthBytes: number;
  readonly #contextIds: ReadonlySet<number>;
  readonly #found = new Map<number, readonly StatusDescriptor[]>();

  constructor(lengthBytes: number, contextIds: ReadonlySet<number>) {
    super('BLOCK_STATUS');
    this.#lengthBytes = lengthBytes;
    this.#contextIds = contextIds;
  }

  protected simpleSuccessBytes(): number {
    throw this.broken('a simple reply');
  }

  protected admitContent(type: number, lengthBytes: number): void {
    if (type === CHUNK.BLOCK_STATUS && lengthBytes >= 12) return;
    throw this.broken(`unexpected chunk of type ${type} with ${lengthBytes} bytes`);
  }

  protected succeed(): void {}

  protected content(_type: number, payload: Buffer): void {
    const { contextId, descriptors } = decodeStatusChunk(payload);
    if (!this.#contextIds.has(contextId)) throw this.broken(`status of context ${contextId}, never agreed`);
    if (this.#found.has(contextId)) throw this.broken(`context ${contextId} twice`);
    let sum = 0;
    for (const d of descriptors) {
      if (sum >= this.#lengthBytes) throw this.broken('an extent behind the end of the request');
      sum += d.lengthBytes;
    }
    this.#found.set(contextId, descriptors);
  }

  protected finish(): void {
    const [found, agreed] = [this.#found.size, this.#contextIds.size];
    if (found !== agreed) throw this.broken(`status of ${found} of ${agreed} contexts`);
  }

  protected value(): ReadonlyMap<number, readonly StatusDescriptor[]> {
    return this.#found;
  }
}
