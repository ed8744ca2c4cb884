import type { ContentReader } from '../../content/pages/reader.ts';
import { decodeBlock } from '../../wire/codec.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { StreamDecoder } from '../../wire/qemu-stream/decoder.ts';
import type { Referenced } from '../../wire/qemu-stream/memory.ts';
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
  readonly reader:
    | (Pick<ContentReader, 'read' | 'verify'> & Partial<Pick<ContentReader, 'giveBack'>>)
    | undefined;
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

  /**
   * Begins to load what the frame refers to; undefined if that is nothing. With `hold` only looks whether it is there: what is
   * there is mostly not needed before the VM runs.
   * @throws MOVER_PROTOCOL, STREAM_*
   */
  load(channel: 0 | 1, sequence: number, frame: Buffer, hold = false): Promise<Referenced> | undefined {
    const ordinals = StreamDecoder.references(frame);
    if (ordinals.length === 0) return undefined;
    const { reader } = this.#options;
    if (!reader) throw migrationFail('MOVER_PROTOCOL', 'a reference to content that was not agreed on');
    this.#loadedBytes += ordinals.length * PAGE_BYTES;
    if (this.#loadedBytes > LOADED_MAX_BYTES) {
      const detail = `${this.#loadedBytes} bytes of references wait, with message ${sequence} of channel ${channel}`;
      throw migrationFail('MOVER_PROTOCOL', detail);
    }
    const loaded = hold
      ? reader.verify(ordinals).then(async ({ crcs, missing }) => {
          const bodies = new Map<number, Buffer>();
          await this.#ask(channel, sequence, missing, (position, page) => bodies.set(position, page));
          return { crcs, bodies };
        })
      : reader.read(ordinals, { urgent: channel === 1 }).then(async ({ bodies, missing }) => {
          await this.#ask(channel, sequence, missing, (position, page) =>
            page.copy(bodies, position * PAGE_BYTES),
          );
          return bodies;
        });
    loaded.catch(() => {});
    return loaded;
  }

  /** Adds the bodies at these positions to what `load` gave with `hold`. */
  async complete(
    message: { readonly channel: 0 | 1; readonly sequence: number; readonly frame: Buffer },
    referenced: Referenced,
    positions: readonly number[],
  ): Promise<Referenced> {
    if (!('crcs' in referenced)) return referenced;
    const wanted = positions.filter((position) => !referenced.bodies.has(position));
    const { reader } = this.#options;
    if (wanted.length === 0 || !reader) return referenced;
    const ordinals = StreamDecoder.references(message.frame);
    const read = await reader.read(Float64Array.from(wanted, (position) => ordinals[position] as number));
    const bodies = new Map(referenced.bodies);
    for (const [i, position] of wanted.entries())
      bodies.set(position, Buffer.from(read.bodies.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES)));
    reader.giveBack?.(read.bodies);
    const missing = Uint32Array.from(read.missing, (i) => wanted[i] as number);
    const { channel, sequence } = message;
    await this.#ask(channel, sequence, missing, (position, page) => bodies.set(position, page));
    return { crcs: referenced.crcs, bodies };
  }

  /** The frame with these references has been decoded: the source need not keep them. */
  decoded(channel: 0 | 1, sequence: number, referenced: Referenced): void {
    const held = 'crcs' in referenced;
    const lengthBytes = held ? referenced.crcs.length * PAGE_BYTES : referenced.length;
    this.#loadedBytes -= lengthBytes;
    if (!held) this.#options.reader?.giveBack?.(referenced);
    const bytes = (this.#decodedBytes[channel] ?? 0) + lengthBytes;
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

  async #ask(
    channel: 0 | 1,
    sequence: number,
    missing: Uint32Array,
    take: (position: number, page: Buffer) => void,
  ): Promise<void> {
    if (missing.length === 0) return;
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
      take(position, pages.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES));
  }
}

function over(): Error {
  return migrationFail('MOVER_PEER_FAILED', 'the migration ended before content came');
}
