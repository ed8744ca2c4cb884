import {
  CHUNK,
  CHUNK_FLAG,
  COMMAND,
  COMMAND_FLAG,
  NBD_ERRNO,
  NBD_MAX_CHUNK_EXTENTS,
  NBD_MAX_REQUEST_BYTES,
  TRANSMISSION,
} from '../wire/nbd/constants.ts';
import {
  encodeChunkHeader,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeSimpleReply,
  encodeStatusChunk,
} from '../wire/nbd/encode.ts';
import type { NbdExtent, RequestFrame, StatusDescriptor } from '../wire/nbd/frames.ts';
import { errnoOf, type NbdBackend } from './backend.ts';
import { fail } from './errors.ts';
import type { Agreement } from './server-handshake.ts';

/** Largest length of one extent on the wire: 32 bits, a multiple of every block size. */
const MAX_EXTENT_BYTES = 2 ** 32 - 65_536;

/** A reply as pieces for the socket. */
export type Reply = readonly Buffer[];

/**
 * Answers requests out of a backend: checks them against what was agreed, calls the backend, encodes the outcome.
 * Knows no socket; an answer that is not there at once comes as a promise, which never rejects.
 */
export class RequestExecutor {
  readonly #agreement: Agreement;
  readonly #backend: NbdBackend;
  readonly #writable: boolean;
  readonly #block: number;
  readonly #signal: AbortSignal;
  readonly #onBackendError: (error: unknown, request: RequestFrame) => void;

  constructor(
    agreement: Agreement,
    signal: AbortSignal,
    onBackendError: (error: unknown, request: RequestFrame) => void,
  ) {
    this.#agreement = agreement;
    this.#backend = agreement.export.backend;
    this.#writable = (agreement.flags & TRANSMISSION.READ_ONLY) === 0;
    this.#block = this.#backend.minimumBlockBytes ?? 1;
    this.#signal = signal;
    this.#onBackendError = onBackendError;
  }

  execute(request: RequestFrame): Reply | Promise<Reply> {
    const errno = this.#refusal(request);
    if (errno !== 0) return this.#error(request, errno);
    try {
      const reply = this.#dispatch(request);
      if (!(reply instanceof Promise)) return reply;
      return reply.catch((error: unknown) => this.#failed(request, error));
    } catch (error) {
      return this.#failed(request, error);
    }
  }

  /** Why a request is not even tried: an error number, or 0. */
  #refusal(request: RequestFrame): number {
    const { command, offset, lengthBytes } = request;
    if ((request.flags & ~this.#allowedFlags(command)) !== 0) return NBD_ERRNO.EINVAL;
    const mutates = command === COMMAND.WRITE || command === COMMAND.TRIM || command === COMMAND.WRITE_ZEROES;
    if (mutates && !this.#writable) return NBD_ERRNO.EPERM;
    if (command === COMMAND.FLUSH) return 0;
    if (offset + lengthBytes > this.#backend.sizeBytes) return mutates ? NBD_ERRNO.ENOSPC : NBD_ERRNO.EINVAL;
    if (command === COMMAND.READ && lengthBytes > NBD_MAX_REQUEST_BYTES) return NBD_ERRNO.EOVERFLOW;
    if (this.#block > 1 && (offset % this.#block !== 0 || lengthBytes % this.#block !== 0)) {
      return NBD_ERRNO.EINVAL;
    }
    return 0;
  }

  #allowedFlags(command: number): number {
    const { flags } = this.#agreement;
    // once offered, FUA must be accepted on every command
    const fua = (flags & TRANSMISSION.SEND_FUA) === 0 ? 0 : COMMAND_FLAG.FUA;
    if (command === COMMAND.READ && (flags & TRANSMISSION.SEND_DF) !== 0) return fua | COMMAND_FLAG.DF;
    if (command === COMMAND.WRITE_ZEROES) return fua | COMMAND_FLAG.NO_HOLE;
    if (command === COMMAND.BLOCK_STATUS) return fua | COMMAND_FLAG.REQ_ONE;
    return fua;
  }

  #dispatch(request: RequestFrame): Reply | Promise<Reply> {
    const { command, offset, lengthBytes, payload } = request;
    const backend = this.#backend;
    const signal = this.#signal;
    switch (command) {
      case COMMAND.READ: {
        if (lengthBytes === 0) return this.#success(request);
        const data = backend.read(offset, lengthBytes, signal);
        return data instanceof Promise
          ? data.then((bytes) => this.#data(request, bytes))
          : this.#data(request, data);
      }
      case COMMAND.WRITE:
        if (backend.write === undefined || payload === undefined) break;
        if (lengthBytes === 0) return this.#success(request);
        return this.#durable(request, backend.write(offset, payload, signal));
      case COMMAND.FLUSH:
        if (backend.flush === undefined) break;
        return this.#after(request, backend.flush(signal));
      case COMMAND.TRIM:
        if (backend.trim === undefined) break;
        if (lengthBytes === 0) return this.#success(request);
        return this.#durable(request, backend.trim(offset, lengthBytes, signal));
      case COMMAND.WRITE_ZEROES: {
        if (backend.writeZeroes === undefined) break;
        if (lengthBytes === 0) return this.#success(request);
        const mayTrim = (request.flags & COMMAND_FLAG.NO_HOLE) === 0;
        return this.#durable(request, backend.writeZeroes(offset, lengthBytes, mayTrim, signal));
      }
      case COMMAND.BLOCK_STATUS: {
        if (backend.extents === undefined || this.#agreement.allocationContextId === undefined) break;
        if (lengthBytes === 0) break;
        const extents = backend.extents(offset, lengthBytes, signal);
        return extents instanceof Promise
          ? extents.then((found) => this.#status(request, found))
          : this.#status(request, extents);
      }
      default:
    }
    return this.#error(request, NBD_ERRNO.EINVAL);
  }

  /** The answer to a mutation: with FUA it waits for the flush. */
  #durable(request: RequestFrame, done: void | Promise<void>): Reply | Promise<Reply> {
    if ((request.flags & COMMAND_FLAG.FUA) === 0) return this.#after(request, done);
    if (done instanceof Promise) {
      return done.then(() => this.#backend.flush?.(this.#signal)).then(() => this.#success(request));
    }
    return this.#after(request, this.#backend.flush?.(this.#signal));
  }

  #after(request: RequestFrame, done: void | Promise<void>): Reply | Promise<Reply> {
    return done instanceof Promise ? done.then(() => this.#success(request)) : this.#success(request);
  }

  #data(request: RequestFrame, data: Buffer): Reply {
    const { cookie, offset, lengthBytes } = request;
    if (data.length !== lengthBytes) {
      throw fail('NBD_BACKEND', `read of ${lengthBytes} bytes at ${offset} gave ${data.length}`);
    }
    if (!this.#agreement.structuredReplies) return [encodeSimpleReply(cookie, 0), data];
    return [encodeDataChunkHeader(CHUNK_FLAG.DONE, cookie, offset, lengthBytes), data];
  }

  #status(request: RequestFrame, extents: readonly NbdExtent[]): Reply {
    const descriptors = toDescriptors(request, extents);
    const id = this.#agreement.allocationContextId ?? 0;
    return [encodeStatusChunk(CHUNK_FLAG.DONE, request.cookie, id, descriptors)];
  }

  #success(request: RequestFrame): Reply {
    const { command, cookie } = request;
    // only READ and BLOCK_STATUS need the long form
    if (command !== COMMAND.READ || !this.#agreement.structuredReplies) return [encodeSimpleReply(cookie, 0)];
    return [encodeChunkHeader(CHUNK_FLAG.DONE, CHUNK.NONE, cookie, 0)];
  }

  #failed(request: RequestFrame, error: unknown): Reply {
    // once the client has gone, giving up is what a backend should do
    if (!this.#signal.aborted) this.#onBackendError(error, request);
    return this.#error(request, errnoOf(error), error instanceof Error ? error.message : '');
  }

  #error(request: RequestFrame, errno: number, message = ''): Reply {
    if (!this.#agreement.structuredReplies) return [encodeSimpleReply(request.cookie, errno)];
    return [encodeErrorChunk(CHUNK_FLAG.DONE, request.cookie, errno, message)];
  }
}

/** A backend's extents in wire form: clipped to the request, at most the limit, one with REQ_ONE. @throws NBD_BACKEND */
export function toDescriptors(request: RequestFrame, extents: readonly NbdExtent[]): StatusDescriptor[] {
  const limit = (request.flags & COMMAND_FLAG.REQ_ONE) === 0 ? NBD_MAX_CHUNK_EXTENTS : 1;
  const end = request.offset + request.lengthBytes;
  const descriptors: StatusDescriptor[] = [];
  let at = request.offset;
  for (const extent of extents) {
    if (at >= end || descriptors.length >= limit) break;
    if (extent.offset !== at || extent.lengthBytes <= 0) {
      throw fail('NBD_BACKEND', `extent [${extent.offset}, +${extent.lengthBytes}) where ${at} was next`);
    }
    const lengthBytes = Math.min(extent.lengthBytes, end - at, MAX_EXTENT_BYTES);
    descriptors.push({ lengthBytes, flags: extent.flags });
    at += lengthBytes;
    if (lengthBytes < extent.lengthBytes && at < end) break;
  }
  if (descriptors.length === 0) throw fail('NBD_BACKEND', 'no extents');
  return descriptors;
}
