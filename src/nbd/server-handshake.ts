import { errorCode } from '../base/errors.ts';
import {
  CONTEXT_BASE_ALLOCATION,
  HANDSHAKE,
  INFO,
  NBD_MAX_REQUEST_BYTES,
  OPTION,
  OPTION_REPLY,
  TRANSMISSION,
} from '../wire/nbd/constants.ts';
import { decodeInfoRequest, decodeMetaContextRequest } from '../wire/nbd/decode.ts';
import {
  encodeBlockSizeInfo,
  encodeExportInfo,
  encodeExportNameReply,
  encodeMetaContext,
  encodeOptionReply,
  encodeServerEntry,
  encodeTextInfo,
} from '../wire/nbd/encode.ts';
import { fail as wireFail } from '../wire/nbd/errors.ts';
import type { OptionFrame } from '../wire/nbd/frames.ts';
import type { NbdBackend } from './backend.ts';
import { NBD_MAX_OPTIONS } from './constants.ts';
import { fail } from './errors.ts';

/** One thing that a server offers. The empty name is the default export. */
export interface NbdExport {
  readonly name: string;
  readonly description?: string;
  readonly backend: NbdBackend;
}

/** What was agreed when transmission begins. */
export interface Agreement {
  readonly export: NbdExport;
  /** `TRANSMISSION` bits. */
  readonly flags: number;
  readonly structuredReplies: boolean;
  /** The id of `base:allocation`, if the client chose it. */
  readonly allocationContextId: number | undefined;
}

export interface HandshakeStep {
  readonly replies: readonly Buffer[];
  readonly next: 'continue' | 'disconnect' | Agreement;
}

/** The single context that we have; ids are ours to choose. */
const ALLOCATION_CONTEXT_ID = 1;

/** `TRANSMISSION` bits of an export. */
export function transmissionFlags(backend: NbdBackend, structuredReplies: boolean): number {
  const writable = !backend.readOnly && backend.write !== undefined;
  let flags = TRANSMISSION.HAS_FLAGS | TRANSMISSION.CAN_MULTI_CONN;
  if (structuredReplies) flags |= TRANSMISSION.SEND_DF;
  if (backend.flush !== undefined) flags |= TRANSMISSION.SEND_FLUSH | TRANSMISSION.SEND_FUA;
  if (!writable) return flags | TRANSMISSION.READ_ONLY;
  if (backend.trim !== undefined) flags |= TRANSMISSION.SEND_TRIM;
  if (backend.writeZeroes !== undefined) flags |= TRANSMISSION.SEND_WRITE_ZEROES;
  return flags;
}

/** The server's side of option haggling: bytes in, bytes out, no socket. */
export class ServerHandshake {
  readonly #exports: ReadonlyMap<string, NbdExport>;
  #noZeroes = false;
  #structuredReplies = false;
  #allocationFor: string | undefined;
  #options = 0;

  constructor(exports: ReadonlyMap<string, NbdExport>) {
    this.#exports = exports;
  }

  /** @throws NBD_BAD_FRAME for flags that we did not offer */
  clientFlags(flags: number): void {
    if ((flags & ~(HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES)) !== 0) {
      throw wireFail('NBD_BAD_FRAME', `client flags 0x${flags.toString(16)}`);
    }
    this.#noZeroes = (flags & HANDSHAKE.NO_ZEROES) !== 0;
  }

  /** @throws NBD_TOO_LARGE after too many options, NBD_EXPORT_UNKNOWN where the protocol has no other answer */
  option(frame: OptionFrame): HandshakeStep {
    this.#options += 1;
    if (this.#options > NBD_MAX_OPTIONS) throw wireFail('NBD_TOO_LARGE', `${this.#options} options`);
    try {
      return this.#answer(frame);
    } catch (error) {
      if (frame.option === OPTION.EXPORT_NAME) throw error;
      if (errorCode(error) === 'NBD_BAD_FRAME') return refuse(frame, OPTION_REPLY.ERR_INVALID, error);
      if (errorCode(error) === 'NBD_TOO_LARGE') return refuse(frame, OPTION_REPLY.ERR_TOO_BIG, error);
      throw error;
    }
  }

  #answer(frame: OptionFrame): HandshakeStep {
    const { option, data } = frame;
    switch (option) {
      case OPTION.EXPORT_NAME:
        return this.#exportName(data.toString());
      case OPTION.ABORT:
        return { replies: [encodeOptionReply(option, OPTION_REPLY.ACK)], next: 'disconnect' };
      case OPTION.LIST:
        return data.length > 0 ? refuse(frame, OPTION_REPLY.ERR_INVALID) : this.#list(option);
      case OPTION.INFO:
      case OPTION.GO:
        return this.#info(frame);
      case OPTION.STRUCTURED_REPLY:
        if (data.length > 0) return refuse(frame, OPTION_REPLY.ERR_INVALID);
        this.#structuredReplies = true;
        return acknowledge(option);
      case OPTION.LIST_META_CONTEXT:
      case OPTION.SET_META_CONTEXT:
        return this.#metaContext(frame);
      default:
        return refuse(frame, OPTION_REPLY.ERR_UNSUP);
    }
  }

  #exportName(name: string): HandshakeStep {
    const found = this.#exports.get(name);
    if (found === undefined) throw fail('NBD_EXPORT_UNKNOWN', JSON.stringify(name.slice(0, 200)));
    const agreement = this.#agreement(found);
    const { sizeBytes } = found.backend;
    return {
      replies: [encodeExportNameReply(sizeBytes, agreement.flags, this.#noZeroes)],
      next: agreement,
    };
  }

  #list(option: number): HandshakeStep {
    const entries = [...this.#exports.values()].map((e) =>
      encodeOptionReply(option, OPTION_REPLY.SERVER, encodeServerEntry(e.name, e.description)),
    );
    return { ...acknowledge(option), replies: [...entries, ...acknowledge(option).replies] };
  }

  #info(frame: OptionFrame): HandshakeStep {
    const { option } = frame;
    const { name, requests } = decodeInfoRequest(frame.data);
    const found = this.#exports.get(name);
    if (found === undefined) return refuse(frame, OPTION_REPLY.ERR_UNKNOWN);
    const { backend, description } = found;
    const agreement = this.#agreement(found);
    const infos = [encodeExportInfo(backend.sizeBytes, agreement.flags)];
    if (requests.includes(INFO.NAME)) infos.push(encodeTextInfo(INFO.NAME, name));
    if (requests.includes(INFO.DESCRIPTION) && description !== undefined) {
      infos.push(encodeTextInfo(INFO.DESCRIPTION, description));
    }
    if (requests.includes(INFO.BLOCK_SIZE)) {
      const minimumBytes = backend.minimumBlockBytes ?? 1;
      const preferredBytes = Math.max(minimumBytes, backend.preferredBlockBytes ?? 4096);
      infos.push(encodeBlockSizeInfo({ minimumBytes, preferredBytes, maximumBytes: NBD_MAX_REQUEST_BYTES }));
    }
    const replies = infos.map((info) => encodeOptionReply(option, OPTION_REPLY.INFO, info));
    const done = acknowledge(option);
    return {
      replies: [...replies, ...done.replies],
      next: option === OPTION.GO ? agreement : 'continue',
    };
  }

  #metaContext(frame: OptionFrame): HandshakeStep {
    const { option } = frame;
    const set = option === OPTION.SET_META_CONTEXT;
    // a failed SET drops the earlier choice too
    if (set) this.#allocationFor = undefined;
    if (!this.#structuredReplies) return refuse(frame, OPTION_REPLY.ERR_INVALID);
    const { name, queries } = decodeMetaContextRequest(frame.data);
    const found = this.#exports.get(name);
    if (found === undefined) return refuse(frame, OPTION_REPLY.ERR_UNKNOWN);
    const wanted = queries.some((q) => q === CONTEXT_BASE_ALLOCATION || (!set && q === 'base:'));
    const matches = wanted || (!set && queries.length === 0);
    if (!matches || found.backend.extents === undefined) return acknowledge(option);
    if (set) this.#allocationFor = name;
    const data = encodeMetaContext(set ? ALLOCATION_CONTEXT_ID : 0, CONTEXT_BASE_ALLOCATION);
    return {
      replies: [
        encodeOptionReply(option, OPTION_REPLY.META_CONTEXT, data),
        encodeOptionReply(option, OPTION_REPLY.ACK),
      ],
      next: 'continue',
    };
  }

  #agreement(found: NbdExport): Agreement {
    const chosen = this.#allocationFor === found.name;
    return {
      export: found,
      flags: transmissionFlags(found.backend, this.#structuredReplies),
      structuredReplies: this.#structuredReplies,
      allocationContextId: chosen ? ALLOCATION_CONTEXT_ID : undefined,
    };
  }
}

function acknowledge(option: number): HandshakeStep {
  return { replies: [encodeOptionReply(option, OPTION_REPLY.ACK)], next: 'continue' };
}

function refuse(frame: OptionFrame, type: number, error?: unknown): HandshakeStep {
  const text = error instanceof Error ? Buffer.from(error.message) : Buffer.alloc(0);
  return { replies: [encodeOptionReply(frame.option, type, text)], next: 'continue' };
}
