import { PAGE_BYTES } from './constants.ts';
import type { RamBlock } from './sink.ts';

/** Pages of a block that are kept account of, 4 bytes each: 64 GiB of guest memory. Nothing of larger ones is held. */
export const HELD_PAGES_MAX = 2 ** 24;

/** QEMU itself looks into the first of the VM's memory while it loads the devices' state: it would ask, and wait, for a page that is held. */
export const NOT_HELD_PAGES = 256;

const UNSEEN = 0;
const GIVEN = 1;
const ZERO = 2;
/** From here on: a reference, by its number. */
const REFERENCE = 3;
const REFERENCE_MAX = 2 ** 31 - 1 - REFERENCE;

/** A page that is all zero, in place of a reference's number. */
export const ZERO_PAGE = -1;

interface Block {
  readonly name: string;
  readonly pages: Int32Array;
  /** Where the search for the next page to place goes on. */
  next: number;
}

/**
 * Pages of round one that the target's QEMU has not been given: those that are all zero, as its memory is, and those
 * that the target has in files. QEMU is given them in post-copy: when it asks for them, or in the background.
 */
export class HeldPages {
  #blocks: readonly Block[] = [];
  #open = true;
  #references = 0;
  #held = 0;

  /**
   * The blocks of the machine, before their first page. Only pages of the largest, the VM's memory, are held: QEMU itself may
   * look into the others before the VM runs, and a page that it has looked at cannot be placed any more.
   */
  enter(blocks: readonly RamBlock[]): void {
    const [first] = blocks.toSorted((a, b) => b.lengthBytes - a.lengthBytes);
    const pages = Math.ceil((first?.lengthBytes ?? 0) / PAGE_BYTES);
    if (!first || pages > HELD_PAGES_MAX) return;
    this.#blocks = [{ name: first.name, pages: new Int32Array(pages), next: 0 }];
  }

  /** The block of which pages are held. */
  get block(): string | undefined {
    return this.#blocks[0]?.name;
  }

  /** Holds nothing more. */
  close(): void {
    this.#open = false;
  }

  /** Pages held so far, whatever became of them since. */
  get held(): number {
    return this.#held;
  }

  /** Whether a page with this content (ZERO_PAGE or a number) could be held: QEMU has never been given it. */
  holds(block: string, page: number, number: number): boolean {
    if (!this.#open || page < NOT_HELD_PAGES || number > REFERENCE_MAX) return false;
    const state = this.#find(block)?.pages[page];
    return state !== undefined && state !== GIVEN;
  }

  /** Of a page that `holds`. */
  hold(block: string, page: number, number: number): void {
    const found = this.#find(block);
    if (!found) return;
    if ((found.pages[page] as number) >= REFERENCE) this.#references--;
    if (number >= 0) this.#references++;
    this.#held++;
    found.pages[page] = number < 0 ? ZERO : REFERENCE + number;
  }

  /** QEMU is given the page by its source. */
  given(block: string, page: number): void {
    const found = this.#find(block);
    if (!found || page >= found.pages.length) return;
    if ((found.pages[page] as number) >= REFERENCE) this.#references--;
    found.pages[page] = GIVEN;
  }

  /** The source will send these pages anew. */
  discard(block: string, firstPage: number, count: number): void {
    const found = this.#find(block);
    if (!found) return;
    const end = Math.min(found.pages.length, firstPage + count);
    for (let page = firstPage; page < end; page++) {
      if ((found.pages[page] as number) >= REFERENCE) this.#references--;
      found.pages[page] = UNSEEN;
    }
  }

  /** What is to be placed for a page that QEMU asks for; `source`: that has it, `given`: it is on its way. */
  claim(block: string, page: number): number | 'source' | 'given' {
    const found = this.#find(block);
    const state = found?.pages[page];
    if (!found || state === undefined || state === UNSEEN) return 'source';
    if (state === GIVEN) return 'given';
    found.pages[page] = GIVEN;
    if (state === ZERO) return ZERO_PAGE;
    this.#references--;
    return state - REFERENCE;
  }

  /** The next pages with references, of one block, at most `limit`; undefined when there are none left. Zero pages need no placing. */
  claimNext(limit: number): { block: string; pages: number[]; numbers: number[] } | undefined {
    if (this.#references === 0) return undefined;
    for (const block of this.#blocks) {
      const pages: number[] = [];
      const numbers: number[] = [];
      for (; block.next < block.pages.length && pages.length < limit; block.next++) {
        const state = block.pages[block.next] as number;
        if (state < REFERENCE) continue;
        block.pages[block.next] = GIVEN;
        this.#references--;
        pages.push(block.next);
        numbers.push(state - REFERENCE);
      }
      if (pages.length > 0) return { block: block.name, pages, numbers };
    }
    return undefined;
  }

  #find(name: string): Block | undefined {
    return this.#blocks.find((block) => block.name === name);
  }
}
