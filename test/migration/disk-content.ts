import { setImmediate as tick } from 'node:timers/promises';
import type { PagesRead } from '../../src/content/pages/reader.ts';
import type { PageReader } from '../../src/migration/disk/content.ts';
import type { ContentLookup } from '../../src/wire/qemu-stream/content.ts';

const PAGE = 4096;

export interface FakeContentOptions {
  /** Turns of the event loop that a read takes. */
  turns?: () => number;
  /** Whether a page turns out not to be there. */
  missing?: (ordinal: number) => boolean;
}

/** Content that both sites have agreed on, in memory: the whole pages of a file for which `keep` says so. */
export class FakeContent implements ContentLookup, PageReader {
  readonly reads: { ordinals: number[]; urgent: boolean }[] = [];
  readonly #pages: Buffer[] = [];
  readonly #byText = new Map<string, number>();
  readonly #options: FakeContentOptions;

  constructor(file: Buffer, keep: () => boolean, options: FakeContentOptions = {}) {
    this.#options = options;
    for (let at = 0; at + PAGE <= file.length; at += PAGE) {
      const page = file.subarray(at, at + PAGE);
      const text = page.toString('latin1');
      if (!keep() || this.#byText.has(text)) continue;
      this.#byText.set(text, this.#pages.length);
      this.#pages.push(page);
    }
  }

  find(buf: Buffer, start: number): number {
    return this.#byText.get(buf.toString('latin1', start, start + PAGE)) ?? -1;
  }

  async read(ordinals: Float64Array, call: { readonly urgent?: boolean } = {}): Promise<PagesRead> {
    this.reads.push({ ordinals: [...ordinals], urgent: call.urgent ?? false });
    for (let turns = this.#options.turns?.() ?? 0; turns > 0; turns--) await tick();
    const bodies = Buffer.alloc(ordinals.length * PAGE, 0xee);
    const missing: number[] = [];
    for (const [i, ordinal] of ordinals.entries()) {
      const page = this.#pages[ordinal];
      if (page && !this.#options.missing?.(ordinal)) page.copy(bodies, i * PAGE);
      else missing.push(i);
    }
    return { bodies, missing: Uint32Array.from(missing) };
  }
}
