import type { ContentReader } from '../../content/pages/reader.ts';
import { type DataFrame, referencesOf, SECTOR_BYTES } from '../../wire/disk/index.ts';
import { MAX_LOADING_BYTES } from './constants.ts';
import { fail } from './errors.ts';

/** What gives the target pages of the content that both sites have agreed on. */
export type PageReader = Pick<ContentReader, 'read'>;

/** The pages that a frame refers to. */
export interface FramePages {
  /** One after the other; of no use when some are missing. */
  readonly bodies: Buffer;
  /** Which sectors of the frame's run they are, ascending. */
  readonly sectors: readonly number[];
  /** How many are not here as they should be. */
  readonly missing: number;
}

/** The target's end of references: reads what frames refer to, those that a read waits for first. */
export class ContentLoader {
  #reader: PageReader | undefined;
  #loadingBytes = 0;
  #loading = 0;

  use(reader: PageReader | undefined): void {
    this.#reader = reader;
  }

  /** Bytes of the pages of frames that have not been released. */
  get bytes(): number {
    return this.#loadingBytes;
  }

  /** Whether no frame waits for its pages. */
  get idle(): boolean {
    return this.#loading === 0;
  }

  /**
   * Begins to read the pages of a frame; undefined if it refers to none. They count as held until `release`.
   * @throws DISK_FRAME_CORRUPT, DISK_LIMIT
   */
  load(frame: DataFrame, fileSizeBytes: number, urgent: boolean): Promise<FramePages> | undefined {
    const references = referencesOf(frame, fileSizeBytes);
    if (!references) return undefined;
    const { ordinals, sectors } = references;
    const bytes = sectors.length * SECTOR_BYTES;
    if (this.#loadingBytes + bytes > MAX_LOADING_BYTES)
      throw fail('DISK_LIMIT', `${this.#loadingBytes} bytes of content wait to be written`);
    this.#loadingBytes += bytes;
    this.#loading++;
    return this.#read(ordinals, sectors, urgent);
  }

  release(pages: FramePages): void {
    this.#loadingBytes -= pages.sectors.length * SECTOR_BYTES;
  }

  async #read(ordinals: Float64Array, sectors: readonly number[], urgent: boolean): Promise<FramePages> {
    try {
      const read = await this.#reader?.read(ordinals, { urgent });
      return {
        bodies: read?.bodies ?? Buffer.alloc(0),
        sectors,
        missing: read?.missing.length ?? sectors.length,
      };
    } finally {
      this.#loading--;
    }
  }
}
