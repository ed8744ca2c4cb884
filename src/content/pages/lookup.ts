import type { ContentLookup } from '../../wire/qemu-stream/content.ts';
import type { PageIndex } from './page-index.ts';
import { PageTable } from './page-table.ts';

/**
 * Finds pages in the files that both sites hold. Their ordinals are one row: those of the first file, then those of the
 * next; the sites have agreed on files and order.
 */
export class PageLookup implements ContentLookup {
  readonly #parts: readonly {
    readonly index: PageIndex;
    readonly table: PageTable;
    readonly first: number;
  }[];

  constructor(indexes: readonly PageIndex[]) {
    let first = 0;
    this.#parts = indexes.map((index) => {
      const table = new PageTable(index.entries);
      for (let i = 0; i < index.entries; i++) table.insert(index.crcs[i] as number, i);
      const part = { index, table, first };
      first += index.entries;
      return part;
    });
  }

  /** Bytes held, the indexes included. */
  get byteLength(): number {
    return this.#parts.reduce(
      (sum, { index, table }) => sum + table.byteLength + 8 * index.entries + index.hashes.length,
      0,
    );
  }

  find(buf: Buffer, start: number, crc: number): number {
    for (const { index, table, first } of this.#parts) {
      const ordinal = table.find(index, buf, start, crc);
      if (ordinal >= 0) return first + ordinal;
    }
    return -1;
  }
}
