/**
 * Which block a page belongs to, where QEMU 7 does not say it rightly.
 *
 * A record without a block's name belongs to the block of the record before, on its own channel. QEMU up to 7.2 with
 * `postcopy-preempt` goes by the last record on either channel (migration/ram.c): at the end of an iteration
 * `postcopy_preempt_reset_channel` goes back to the main channel, but keeps `last_sent_block`. If the last page was one that
 * was asked for, of another block than the last on the main channel, then the next page on the main channel has no name, and the
 * target's QEMU puts it into the wrong block: at best it stops with "Illegal RAM offset" or "File exists", at worst the guest's
 * memory is wrong. It happens to the first record of a section, and to no other.
 *
 * In post-copy the source sends each page once that it has had the target discard. So nearly always only one block can be
 * meant; else it is the one in which the page is the next after the last one that went, as QEMU's search goes on from there.
 */
import { Bitmap } from '../bitmap.ts';
import { COMMAND_POSTCOPY_RAM_DISCARD, PAGE_BYTES, RAM_BLOCKS_MAX } from './constants.ts';
import type { RamBlock } from './sink.ts';

/** Pages of all blocks together of which account is kept, two bits each: 1 TiB of guest memory. Beyond it nothing is repaired. */
export const CONTINUITY_MAX_PAGES = 2 ** 28;

interface Block {
  readonly name: string;
  /** What is still to be sent. */
  readonly owed: Bitmap;
  /** What went on the second channel. */
  readonly urgent: Bitmap;
}

/** Follows both channels of one stream. */
export class Continuity {
  #blocks: readonly Block[] = [];
  /** The last record on each channel: what the target's QEMU goes by. */
  readonly #last: { main: { block: Block | undefined; page: number }; urgent: Block | undefined } = {
    main: { block: undefined, page: -1 },
    urgent: undefined,
  };
  #postcopy = false;
  #repaired = 0;

  /** Records that have been given their block's name. */
  get repaired(): number {
    return this.#repaired;
  }

  enter(blocks: readonly RamBlock[]): void {
    const pages = blocks.map(({ lengthBytes }) => Math.ceil(lengthBytes / PAGE_BYTES));
    if (blocks.length > RAM_BLOCKS_MAX || pages.reduce((a, b) => a + b, 0) > CONTINUITY_MAX_PAGES) return;
    this.#blocks = blocks.map(({ name }, i) => ({
      name,
      owed: new Bitmap(pages[i] as number),
      urgent: new Bitmap(pages[i] as number),
    }));
  }

  /** A command on the main channel; discards are u8 version 0, u8 + name, u8 0, then u64 start and u64 length of each range. */
  command(id: number, data: Buffer): void {
    if (id !== COMMAND_POSTCOPY_RAM_DISCARD || data.length < 2) return;
    const nameEnd = 2 + data.readUInt8(1);
    const block = this.#find(data.toString('latin1', 2, nameEnd));
    if (!block) return;
    for (let at = nameEnd + 1; at + 16 <= data.length; at += 16) {
      const first = Number(data.readBigUInt64BE(at)) / PAGE_BYTES;
      const count = Number(data.readBigUInt64BE(at + 8)) / PAGE_BYTES;
      if (Number.isInteger(first) && Number.isInteger(count) && first + count <= block.owed.length)
        block.owed.setRange(first, first + count);
    }
  }

  /** The package with the devices comes: from here on it is post-copy. */
  enterPostcopy(): void {
    this.#postcopy = true;
  }

  /**
   * Takes note of a record; `name` undefined: it has none. For the first record of a section on the main channel returns the
   * name that it must be given, if QEMU has left it out wrongly.
   */
  record(
    channel: 'main' | 'urgent',
    page: number,
    name: string | undefined,
    isFirst: boolean,
  ): string | undefined {
    const main = this.#last.main;
    const meant = name === undefined ? undefined : this.#find(name);
    if (channel === 'urgent') {
      const block = (this.#last.urgent = meant ?? this.#last.urgent);
      if (!this.#postcopy || !block || page >= block.owed.length) return undefined;
      block.owed.clear(page);
      block.urgent.set(page);
      return undefined;
    }
    const block =
      name === undefined && isFirst && this.#postcopy ? this.#blockOf(page) : (meant ?? main.block);
    const wrong = name === undefined && block !== main.block ? block?.name : undefined;
    this.#last.main = { block, page };
    if (this.#postcopy && block && page < block.owed.length) block.owed.clear(page);
    if (wrong !== undefined) this.#repaired++;
    return wrong;
  }

  #blockOf(page: number): Block | undefined {
    const { block: last, page: lastPage } = this.#last.main;
    const possible = this.#blocks.filter(({ owed }) => page < owed.length && owed.test(page));
    if (possible.length < 2) return possible[0] ?? last;
    if (last && possible.includes(last)) {
      const isNext = page > lastPage && !last.owed.anySet(lastPage + 1, page);
      if (isNext || followsUrgent(last, page)) return last;
    }
    return (
      possible.find((block) => followsUrgent(block, page)) ??
      possible.find((block) => block === this.#last.urgent) ??
      last
    );
  }

  #find(name: string): Block | undefined {
    return this.#blocks.find((block) => block.name === name);
  }
}

/** Whether it is the next after one that was asked for. */
function followsUrgent({ owed, urgent }: Block, page: number): boolean {
  if (urgent.count === 0) return false;
  for (let before = page - 1; before >= 0; before--) {
    if (urgent.test(before)) return true;
    if (owed.test(before)) return false;
  }
  return false;
}
