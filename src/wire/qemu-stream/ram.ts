/** RAM records of the migration stream (migration/ram.c), and the list of RAM blocks in the section that sets them up. */
import {
  PACKED_PAGE_MAX_BYTES,
  PAGE_BITS,
  PAGE_BYTES,
  RAM_BLOCKS_MAX,
  RAM_COMPRESS_PAGE,
  RAM_CONTINUE,
  RAM_EOS,
  RAM_MEM_SIZE,
  RAM_MULTIFD_FLUSH,
  RAM_PAGE,
  RAM_XBZRLE,
  RAM_ZERO,
} from './constants.ts';
import type { RamBlock, StreamSink } from './sink.ts';

/** The parser around the records. */
export interface RamOwner {
  /** Takes everything to `end` as opaque; returns its length. */
  unknown(detail: string, buf: Buffer, pos: number, end: number): number;
  /** An EOS record was seen. */
  endOfRecords(): void;
}

/** Steps like StreamParser's: bytes taken, or minus the bytes needed. */
export class RamParser {
  readonly #sink: StreamSink;
  readonly #owner: RamOwner;
  #setup = false;
  #inBlockList = false;
  #sizeLeft = 0;
  #blocks: RamBlock[] = [];
  /** A page size may follow the last block of the list (see `#blockList`). */
  #blocksDone = false;

  constructor(sink: StreamSink, owner: RamOwner) {
    this.#sink = sink;
    this.#owner = owner;
  }

  /** A RAM section begins; only the one that sets up (START) may hold the list of blocks. */
  enter(setup: boolean): void {
    this.#setup = setup;
  }

  step(buf: Buffer, pos: number, end: number): number {
    return this.#inBlockList ? this.#blockList(buf, pos, end) : this.#record(buf, pos, end);
  }

  #record(buf: Buffer, pos: number, end: number): number {
    if (end - pos < 8) return -8;
    const low = buf.readUInt32BE(pos + 4);
    const flags = low & 0xfff;
    const kind = flags & ~RAM_CONTINUE;
    if (kind === RAM_PAGE || kind === RAM_ZERO) {
      let nameBytes = 0;
      if (flags === kind) {
        if (end - pos < 9) return -9;
        nameBytes = 1 + buf.readUInt8(pos + 8);
      }
      const need = 8 + nameBytes + (kind === RAM_PAGE ? PAGE_BYTES : 1);
      if (end - pos < need) return -need;
      const page = buf.readUInt32BE(pos) * 0x100000 + (low >>> PAGE_BITS);
      if (kind === RAM_PAGE) this.#sink.dataPage(buf, pos, pos + need, page, nameBytes);
      else if (buf[pos + need - 1] === 0) this.#sink.zeroPage(buf, pos, pos + need, page, nameBytes);
      else this.#sink.packedPage(buf, pos, pos + need, page, nameBytes);
      return need;
    }
    if (flags === RAM_EOS || flags === RAM_MULTIFD_FLUSH) {
      this.#sink.memory(buf, pos, pos + 8);
      if (flags === RAM_EOS) this.#owner.endOfRecords();
      return 8;
    }
    if (flags === RAM_MEM_SIZE && this.#setup) return this.#memSize(buf, pos, end);
    if (kind === RAM_XBZRLE || kind === RAM_COMPRESS_PAGE) return this.#packedPage(buf, pos, end, flags);
    return this.#owner.unknown(`RAM flags 0x${flags.toString(16)}`, buf, pos, end);
  }

  /** XBZRLE: u8 flags, u16 length, data. Compressed by QEMU's own threads (up to QEMU 9.0): u32 length, data. */
  #packedPage(buf: Buffer, pos: number, end: number, flags: number): number {
    let at = 8;
    if ((flags & RAM_CONTINUE) === 0) {
      if (end - pos < 9) return -9;
      at += 1 + buf.readUInt8(pos + 8);
    }
    const xbzrle = (flags & RAM_XBZRLE) !== 0;
    const head = at + (xbzrle ? 3 : 4);
    if (end - pos < head) return -head;
    const length = xbzrle ? buf.readUInt16BE(pos + at + 1) : buf.readUInt32BE(pos + at);
    if (length > PACKED_PAGE_MAX_BYTES) return this.#owner.unknown('a packed page too long', buf, pos, end);
    const need = head + length;
    if (end - pos < need) return -need;
    const page = buf.readUInt32BE(pos) * 0x100000 + (buf.readUInt32BE(pos + 4) >>> PAGE_BITS);
    this.#sink.packedPage(buf, pos, pos + need, page, at - 8);
    return need;
  }

  #memSize(buf: Buffer, pos: number, end: number): number {
    const total = Number(buf.readBigUInt64BE(pos) & ~0xfffn);
    if (total === 0 || !Number.isSafeInteger(total)) return this.#owner.unknown('RAM size', buf, pos, end);
    this.#sizeLeft = total;
    this.#blocks = [];
    this.#blocksDone = false;
    this.#inBlockList = true;
    this.#sink.memory(buf, pos, pos + 8);
    return 8;
  }

  /**
   * u8 + name, u64 length, as often as it takes to make up the total. With post-copy, a block of huge pages is followed
   * by u64 page size; its first byte is 0, which no block name's length is, and its low 12 bits are no RAM record's.
   */
  #blockList(buf: Buffer, pos: number, end: number): number {
    if (this.#blocks.length > 0 && (this.#blocksDone || buf[pos] === 0)) {
      if (end - pos < 8) return -8;
      if ((buf.readUInt32BE(pos + 4) & 0xfff) === 0) {
        this.#sink.memory(buf, pos, pos + 8);
        if (this.#blocksDone) this.#endBlockList();
        return 8;
      }
      if (!this.#blocksDone) return this.#owner.unknown('RAM block without a name', buf, pos, end);
      this.#endBlockList();
      return this.#record(buf, pos, end);
    }
    if (end - pos < 1) return -1;
    const nameLength = buf.readUInt8(pos);
    const need = 1 + nameLength + 8;
    if (end - pos < need) return -need;
    const length = buf.readBigUInt64BE(pos + 1 + nameLength);
    if (length === 0n || length > BigInt(this.#sizeLeft) || this.#blocks.length === RAM_BLOCKS_MAX) {
      return this.#owner.unknown('RAM block list', buf, pos, end);
    }
    const lengthBytes = Number(length);
    this.#blocks.push({ name: buf.toString('latin1', pos + 1, pos + 1 + nameLength), lengthBytes });
    this.#sizeLeft -= lengthBytes;
    this.#blocksDone = this.#sizeLeft === 0;
    this.#sink.memory(buf, pos, pos + need);
    return need;
  }

  #endBlockList(): void {
    this.#sink.blocks(this.#blocks);
    this.#inBlockList = false;
  }
}
