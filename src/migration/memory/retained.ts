import { CODEC_ZSTD, encodeBlock } from '../../wire/codec.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { type ContentMissing, encodeContentBytes, migrationFail } from '../messages.ts';

/** Bodies of references that one channel may have under way, not yet decoded: the source keeps them for so long. */
export const RETAINED_BYTES = 12 * 1024 * 1024;

/**
 * The bodies of one channel's references, until the target has decoded the frames with them. A target that does not have
 * a page after all asks for it and gets it from here: the VM may have changed it since.
 */
export class RetainedContent {
  readonly #frames = new Map<
    number,
    { readonly bodies: Buffer; readonly recycle: (() => void) | undefined }
  >();
  #bytes = 0;
  #room: PromiseWithResolvers<void> | undefined;
  #closed = false;

  /** Keeps the bodies of a frame; resolves when there is room for more. */
  async add(sequence: number, bodies: Buffer, recycle?: () => void): Promise<void> {
    this.#frames.set(sequence, { bodies, recycle });
    this.#bytes += bodies.length;
    if (this.#closed || this.#bytes <= RETAINED_BYTES) return;
    this.#room ??= Promise.withResolvers();
    await this.#room.promise;
  }

  /** The target has decoded every frame up to this one. */
  release(sequence: number): void {
    for (const [kept, { bodies, recycle }] of this.#frames) {
      // sequence numbers only rise, and so do they here
      if (kept > sequence) break;
      this.#frames.delete(kept);
      this.#bytes -= bodies.length;
      recycle?.();
    }
    if (this.#bytes > RETAINED_BYTES) return;
    this.#room?.resolve();
    this.#room = undefined;
  }

  /** The migration is over: nobody waits for room any more. */
  close(): void {
    this.#closed = true;
    this.#room?.resolve();
  }

  /** The message with what the target asks for. @throws MOVER_PROTOCOL */
  answer({ channel, sequence, positions }: ContentMissing): Buffer {
    const bodies = this.#frames.get(sequence)?.bodies;
    if (!bodies) throw migrationFail('MOVER_PROTOCOL', 'content of a frame that is not kept');
    const pages = positions.map((position) => {
      const at = position * PAGE_BYTES;
      if (at + PAGE_BYTES > bodies.length) throw migrationFail('MOVER_PROTOCOL', 'content that was not sent');
      return bodies.subarray(at, at + PAGE_BYTES);
    });
    const { codec, payload } = encodeBlock(CODEC_ZSTD, Buffer.concat(pages));
    return encodeContentBytes({ channel, sequence, codec, pages: pages.length, payload });
  }
}
