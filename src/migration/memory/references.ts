import type { ContentReader } from '../../content/pages/reader.ts';
import { decodeBlock } from '../../wire/codec.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { StreamDecoder } from '../../wire/qemu-stream/decoder.ts';
import {
  decodeContentBytes,
  encodeContentMissing,
  encodeDecoded,
  MESSAGE_CONTENT_MISSING,
  MESSAGE_DECODED,
  migrationFail,
} from '../messages.ts';
import { RETAINED_BYTES } from './retained.ts';

/** Decoded references are acknowledged in pieces of this size, far below what the source keeps. */
const ACKNOWLEDGE_BYTES = 1024 * 1024;
/** What a source may have under way: what it keeps for two channels, and a frame beyond it on each. */
export const LOADED_MAX_BYTES = 2 * (RETAINED_BYTES + 2 * 1024 * 1024);

export interface ReferencesOptions {
  /** Undefined where the two sides have agreed on no content. */
  readonly reader: (Pick<ContentReader, 'read'> & Partial<Pick<ContentReader, 'giveBack'>>) | undefined;
  /** Sends an urgent message to the source. */
  readonly send: (type: number, payload: Buffer) => void;
  /** Called the first time that pages turn out not to be here. */
  readonly onMissing?: (pages: number) => void;
}

/**
 * The target's end of references: gets the pages that frames refer to from local files, and from the source those
 * which are not there as they should be.
 */
export class References {
  readonly #options: ReferencesOptions;
  readonly #asked = new Map<string, PromiseWithResolvers<Buffer>>();
  /** Decoded since the last acknowledgement, by channel. */
  readonly #decodedBytes = [0, 0];
  #loadedBytes = 0;
  #resentPages = 0;
  #closed = false;

  constructor(options: ReferencesOptions) {
    this.#options = options;
  }

  /** Pages that were referred to and had to be sent after all. */
  get resentPages(): number {
    return this.#resentPages;
  }

  /** Begins to load what the frame refers to; undefined if that is nothing. @throws MOVER_PROTOCOL, STREAM_* */
  load(channel: 0 | 1, sequence: number, frame: Buffer): Promise<Buffer> | undefined {
    const ordinals = StreamDecoder.references(frame);
    if (ordinals.length === 0) return undefined;
    const { reader } = this.#options;
    if (!reader) throw migrationFail('MOVER_PROTOCOL', 'a reference to content that was not agreed on');
    this.#loadedBytes += ordinals.length * PAGE_BYTES;
    if (this.#loadedBytes > LOADED_MAX_BYTES) {
      const detail = `${this.#loadedBytes} bytes of references wait, with message ${sequence} of channel ${channel}`;
      throw migrationFail('MOVER_PROTOCOL', detail);
    }
    const loaded = reader.read(ordinals, { urgent: channel === 1 }).then(async ({ bodies, missing }) => {
      if (missing.length > 0) await this.#ask(channel, sequence, bodies, missing);
      return bodies;
    });
    loaded.catch(() => {});
    return loaded;
  }

  /** The frame with these bodies has been decoded: the source need not keep them. */
  decoded(channel: 0 | 1, sequence: number, bodies: Buffer): void {
    this.#loadedBytes -= bodies.length;
    this.#options.reader?.giveBack?.(bodies);
    const bytes = (this.#decodedBytes[channel] ?? 0) + bodies.length;
    this.#decodedBytes[channel] = bytes >= ACKNOWLEDGE_BYTES ? 0 : bytes;
    if (bytes >= ACKNOWLEDGE_BYTES) this.#options.send(MESSAGE_DECODED, encodeDecoded({ channel, sequence }));
  }

  /** The source's answer. @throws MOVER_PROTOCOL, CODEC_* */
  handleBytes(payload: Buffer): void {
    const { channel, sequence, codec, pages, payload: packed } = decodeContentBytes(payload);
    const key = `${channel} ${sequence}`;
    const asked = this.#asked.get(key);
    if (!asked) throw migrationFail('MOVER_PROTOCOL', 'content that was not asked for');
    this.#asked.delete(key);
    asked.resolve(decodeBlock(codec, packed, pages * PAGE_BYTES));
  }

  /** The migration is over: nothing is waited for any more. */
  close(): void {
    this.#closed = true;
    for (const answer of this.#asked.values()) answer.reject(over());
    this.#asked.clear();
  }

  async #ask(channel: 0 | 1, sequence: number, bodies: Buffer, missing: Uint32Array): Promise<void> {
    if (this.#closed) throw over();
    const answer = Promise.withResolvers<Buffer>();
    this.#asked.set(`${channel} ${sequence}`, answer);
    if (this.#resentPages === 0) this.#options.onMissing?.(missing.length);
    this.#resentPages += missing.length;
    const request = { channel, sequence, positions: [...missing] };
    this.#options.send(MESSAGE_CONTENT_MISSING, encodeContentMissing(request));
    const pages = await answer.promise;
    if (pages.length !== missing.length * PAGE_BYTES)
      throw migrationFail('MOVER_PROTOCOL', 'content of another length');
    for (const [i, position] of missing.entries())
      pages.copy(bodies, position * PAGE_BYTES, i * PAGE_BYTES, (i + 1) * PAGE_BYTES);
  }
}

function over(): Error {
  return migrationFail('MOVER_PEER_FAILED', 'the migration ended before content came');
}
