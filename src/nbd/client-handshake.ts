import { HANDSHAKE, INFO, NBD_MAX_REQUEST_BYTES, OPTION, OPTION_REPLY } from '../wire/nbd/constants.ts';
import { decodeInfo, decodeMetaContext, decodeServerEntry } from '../wire/nbd/decode.ts';
import {
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
} from '../wire/nbd/encode.ts';
import { fail as wireFail } from '../wire/nbd/errors.ts';
import type { BlockSizes, OptionReply } from '../wire/nbd/frames.ts';
import type { ClientConnection } from './client-connection.ts';
import { NBD_MAX_OPTION_REPLIES } from './constants.ts';
import { fail } from './errors.ts';

/** What the client asks for. */
export interface NbdWish {
  readonly exportName: string;
  readonly structuredReplies: boolean;
  readonly metaContexts: readonly string[];
}

/** What was agreed. */
export interface NbdTerms {
  readonly name: string;
  readonly description: string | undefined;
  readonly sizeBytes: number;
  /** `TRANSMISSION` bits. */
  readonly flags: number;
  readonly blockSizes: BlockSizes;
  readonly structuredReplies: boolean;
  /** Ids of the meta contexts by name. */
  readonly contexts: ReadonlyMap<string, number>;
}

/** One line of what a server offers. */
export interface NbdListEntry {
  readonly name: string;
  readonly description: string;
}

/** What a server means that says nothing about block sizes (proto.md, "Size constraints"). */
const DEFAULT_SIZES: BlockSizes = {
  minimumBytes: 1,
  preferredBytes: 4096,
  maximumBytes: NBD_MAX_REQUEST_BYTES,
};

/** The client's side of option haggling. Every failure leaves the connection for the caller to end. */
export class ClientHandshake {
  readonly #connection: ClientConnection;
  #noZeroes = false;
  #replies = 0;

  constructor(connection: ClientConnection) {
    this.#connection = connection;
  }

  async greet(): Promise<void> {
    const greeting = await this.#connection.next();
    if (greeting.kind !== 'greeting') throw wireFail('NBD_BAD_FRAME', 'no greeting');
    if ((greeting.flags & HANDSHAKE.FIXED_NEWSTYLE) === 0) {
      throw wireFail('NBD_BAD_FRAME', 'the server does not speak fixed newstyle');
    }
    const flags = greeting.flags & (HANDSHAKE.FIXED_NEWSTYLE | HANDSHAKE.NO_ZEROES);
    this.#noZeroes = (flags & HANDSHAKE.NO_ZEROES) !== 0;
    this.#connection.send(encodeClientFlags(flags));
  }

  /** Names of the exports. @throws NBD_OPTION_REFUSED */
  async list(): Promise<NbdListEntry[]> {
    const entries: NbdListEntry[] = [];
    const end = await this.#ask(OPTION.LIST, Buffer.alloc(0), (reply) => {
      if (reply.type !== OPTION_REPLY.SERVER) return false;
      entries.push(decodeServerEntry(reply.data));
      return true;
    });
    if (end.type !== OPTION_REPLY.ACK) throw refused('LIST', end);
    return entries;
  }

  /** Tells the server that there will be no transmission. */
  abort(): void {
    this.#connection.send(encodeOption(OPTION.ABORT));
  }

  /** @throws NBD_EXPORT_UNKNOWN, NBD_CONTEXT_UNKNOWN, NBD_OPTION_REFUSED */
  async go(wish: NbdWish): Promise<NbdTerms> {
    let structuredReplies = false;
    if (wish.structuredReplies) {
      const end = await this.#ask(OPTION.STRUCTURED_REPLY, Buffer.alloc(0), () => false);
      structuredReplies = end.type === OPTION_REPLY.ACK;
    }
    const contexts = await this.#metaContexts(wish, structuredReplies);
    return await this.#choose(wish, structuredReplies, contexts);
  }

  async #metaContexts(wish: NbdWish, structuredReplies: boolean): Promise<Map<string, number>> {
    const granted = new Map<string, number>();
    if (wish.metaContexts.length > 0 && structuredReplies) {
      const data = encodeMetaContextRequest({ name: wish.exportName, queries: wish.metaContexts });
      const end = await this.#ask(OPTION.SET_META_CONTEXT, data, (reply) => {
        if (reply.type !== OPTION_REPLY.META_CONTEXT) return false;
        const { id, name } = decodeMetaContext(reply.data);
        const known = wish.metaContexts.includes(name) && !granted.has(name);
        if (!known || [...granted.values()].includes(id)) {
          throw wireFail('NBD_BAD_FRAME', `meta context ${JSON.stringify(name)} with id ${id}`);
        }
        granted.set(name, id);
        return true;
      });
      if (end.type === OPTION_REPLY.ERR_UNKNOWN) throw fail('NBD_EXPORT_UNKNOWN', wish.exportName);
      if (end.type !== OPTION_REPLY.ACK) granted.clear();
    }
    const missing = wish.metaContexts.find((name) => !granted.has(name));
    if (missing !== undefined) throw fail('NBD_CONTEXT_UNKNOWN', missing);
    return granted;
  }

  async #choose(wish: NbdWish, structuredReplies: boolean, contexts: Map<string, number>): Promise<NbdTerms> {
    const { exportName } = wish;
    const data = encodeInfoRequest({ name: exportName, requests: [INFO.DESCRIPTION, INFO.BLOCK_SIZE] });
    let description: string | undefined;
    let blockSizes = DEFAULT_SIZES;
    let found: { sizeBytes: number; flags: number } | undefined;
    const end = await this.#ask(OPTION.GO, data, (reply) => {
      if (reply.type !== OPTION_REPLY.INFO) return false;
      const info = decodeInfo(reply.data);
      if (info.type === 'export') found = info;
      else if (info.type === 'description') description = info.text;
      else if (info.type === 'blockSize') blockSizes = info;
      return true;
    });
    if (end.type === OPTION_REPLY.ERR_UNSUP) found = await this.#exportName(exportName);
    else if (end.type === OPTION_REPLY.ERR_UNKNOWN) {
      throw fail('NBD_EXPORT_UNKNOWN', JSON.stringify(exportName));
    } else if (end.type !== OPTION_REPLY.ACK) throw refused('GO', end);
    else this.#connection.parser.beginTransmission();
    if (found === undefined)
      throw wireFail('NBD_BAD_FRAME', 'GO acknowledged without the size of the export');
    const { sizeBytes, flags } = found;
    return { name: exportName, description, sizeBytes, flags, blockSizes, structuredReplies, contexts };
  }

  /** For servers from before GO; one that does not have the export ends the connection. */
  async #exportName(name: string): Promise<{ sizeBytes: number; flags: number }> {
    this.#connection.parser.expectExportName(this.#noZeroes);
    this.#connection.send(encodeOption(OPTION.EXPORT_NAME, Buffer.from(name)));
    const reply = await this.#connection.next();
    if (reply.kind !== 'exportName') throw wireFail('NBD_BAD_FRAME', `${reply.kind} in reply to EXPORT_NAME`);
    return reply;
  }

  /** Sends an option and returns the reply that ends it: ACK or an error. `take` handles those before. */
  async #ask(option: number, data: Buffer, take: (reply: OptionReply) => boolean): Promise<OptionReply> {
    this.#connection.send(encodeOption(option, data));
    for (;;) {
      const reply = await this.#connection.next();
      this.#replies += 1;
      if (this.#replies > NBD_MAX_OPTION_REPLIES) throw wireFail('NBD_TOO_LARGE', 'option replies');
      if (reply.kind !== 'optionReply' || reply.option !== option) {
        throw wireFail('NBD_BAD_FRAME', `a reply to another option than ${option}`);
      }
      if (reply.type === OPTION_REPLY.ACK || (reply.type & OPTION_REPLY.ERROR_BIT) !== 0) return reply;
      if (!take(reply)) throw wireFail('NBD_BAD_FRAME', `reply of type ${reply.type} to option ${option}`);
    }
  }
}

function refused(option: string, reply: OptionReply): Error {
  const name = Object.entries(OPTION_REPLY).find(([, value]) => value === reply.type)?.[0] ?? reply.type;
  const said = reply.data.length > 0 ? ` (${reply.data.toString()})` : '';
  return fail('NBD_OPTION_REFUSED', `${option}: ${name}${said}`, {
    fields: { option, replyType: reply.type },
  });
}
