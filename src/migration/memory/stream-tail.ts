import { migrationFail } from '../messages.ts';

/** More device state than any machine of ours has; QEMU's is 100 to 250 KB. */
export const MAX_PRECOPY_TAIL_BYTES = 64 * 1024 * 1024;

const EOF_SECTION = 0x00;
const VMDESCRIPTION_SECTION = 0x06;
/** u8 EOF, u8 VMDESCRIPTION, u32 length, then JSON. */
const DESCRIPTION_HEADER_BYTES = 6;

/**
 * Finds the end of a pre-copy stream whose device sections have no lengths. QEMU inactivates the images right before
 * it writes the EOF byte and the machine's description (savevm.c, qemu_savevm_state_complete_precopy_non_iterable):
 * `00 06 <u32 length> {json}` with exactly that many bytes to come. JSON holds no zero byte, so the last zero byte
 * of the stream lies in that header.
 */
export class StreamTail {
  readonly #chunks: Buffer[] = [];
  #lengthBytes = 0;

  /** True once bytes are being held back. */
  get holding(): boolean {
    return this.#lengthBytes > 0;
  }

  /** Takes the next bytes of the stream; true when they end it. @throws MOVER_PROTOCOL */
  push(chunk: Buffer): boolean {
    this.#chunks.push(chunk);
    this.#lengthBytes += chunk.length;
    if (this.#lengthBytes > MAX_PRECOPY_TAIL_BYTES) {
      throw migrationFail('MOVER_PROTOCOL', `device state of more than ${MAX_PRECOPY_TAIL_BYTES} bytes`);
    }
    if (chunk.at(-1) !== 0x7d) return false;
    const all = Buffer.concat(this.#chunks);
    this.#chunks.splice(0, this.#chunks.length, all);
    const lastZero = all.lastIndexOf(0);
    for (let at = lastZero; at > lastZero - DESCRIPTION_HEADER_BYTES && at >= 0; at--) {
      const json = at + DESCRIPTION_HEADER_BYTES;
      if (
        json < all.length &&
        all[at] === EOF_SECTION &&
        all[at + 1] === VMDESCRIPTION_SECTION &&
        all.readUInt32BE(at + 2) === all.length - json &&
        all[json] === 0x7b
      ) {
        return true;
      }
    }
    return false;
  }
}
