import { errorCode } from '../../base/errors.ts';
import { type DataFrame, runBytes, unpackData } from '../../wire/disk/index.ts';
import { MAX_BAD_IN_A_ROW } from './constants.ts';
import { fail } from './errors.ts';

/** Unpacks frames, counting what is sound and what is not. */
export class Verifier {
  checkedFrames = 0;
  badFrames = 0;
  readonly bytes = { raw: 0, encoded: 0 };
  #badInARow = 0;

  /**
   * The data of a frame (undefined: zeros), or 'bad' when it arrived damaged. `referenced` are the pages that it refers to.
   * @throws DISK_CORRUPT when it has been damaged too often without a break
   */
  unpack(
    frame: DataFrame,
    messageBytes: number,
    fileSizeBytes: number,
    referenced?: Buffer,
  ): Buffer | undefined | 'bad' {
    this.bytes.encoded += messageBytes;
    this.checkedFrames++;
    try {
      const data = unpackData(frame, fileSizeBytes, referenced);
      this.bytes.raw += runBytes(frame.run, fileSizeBytes);
      this.#badInARow = 0;
      return data;
    } catch (error) {
      if (errorCode(error) !== 'DISK_FRAME_CORRUPT') throw error;
      this.badFrames++;
      if (++this.#badInARow > MAX_BAD_IN_A_ROW) {
        throw fail('DISK_CORRUPT', `${this.badFrames} frames`, { cause: error });
      }
      return 'bad';
    }
  }
}
