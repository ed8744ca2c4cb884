import { TRACKED_PAGES_MAX } from './constants.ts';

/** Counts of page records. */
export interface PageCounts {
  /** All zero, in either form (a ZERO record or a whole page of zeros). */
  pagesZero: number;
  /** With content, in QEMU's packed forms too. */
  pagesData: number;
  /** Of the two above: pages that were sent before (dirtied since, or sent in a former round). */
  pagesRepeated: number;
  /** Different pages so far: the progress of round one is this against the sum of the blocks. */
  pagesSeen: number;
}

const NO_PAGES: PageCounts = { pagesZero: 0, pagesData: 0, pagesRepeated: 0, pagesSeen: 0 };

/** One bit a page of each block, grown to the highest page seen. */
export class PageLedger {
  readonly #blocks = new Map<string, Bitmap>();
  #current: Bitmap | undefined;
  #counts: PageCounts = { ...NO_PAGES };
  #marked: PageCounts = { ...NO_PAGES };

  /** The records that follow belong to this block. */
  enter(name: string): void {
    let bitmap = this.#blocks.get(name);
    if (!bitmap) {
      bitmap = new Bitmap();
      this.#blocks.set(name, bitmap);
    }
    this.#current = bitmap;
  }

  add(page: number, zero: boolean): void {
    if (zero) this.#counts.pagesZero++;
    else this.#counts.pagesData++;
    if (this.#current?.setAgain(page)) this.#counts.pagesRepeated++;
    else this.#counts.pagesSeen++;
  }

  mark(): void {
    this.#marked = { ...this.#counts };
  }

  total(): PageCounts {
    return { ...this.#counts };
  }

  sinceMark(): PageCounts {
    const now = this.#counts;
    const then = this.#marked;
    return {
      pagesZero: now.pagesZero - then.pagesZero,
      pagesData: now.pagesData - then.pagesData,
      pagesRepeated: now.pagesRepeated - then.pagesRepeated,
      pagesSeen: now.pagesSeen - then.pagesSeen,
    };
  }
}

class Bitmap {
  #words = new Uint32Array(1024);

  /** Sets a page's bit; true if it was set already. Pages beyond TRACKED_PAGES_MAX always count as new. */
  setAgain(page: number): boolean {
    if (page >= TRACKED_PAGES_MAX) return false;
    const index = page >>> 5;
    if (index >= this.#words.length) {
      const grown = new Uint32Array(2 ** Math.ceil(Math.log2(index + 1)));
      grown.set(this.#words);
      this.#words = grown;
    }
    const word = this.#words[index] as number;
    const bit = 1 << (page & 31);
    if ((word & bit) !== 0) return true;
    this.#words[index] = word | bit;
    return false;
  }
}
