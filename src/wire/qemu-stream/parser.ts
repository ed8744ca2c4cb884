/**
 * Push parser of the QEMU migration stream. It finds the RAM pages and the commands, and hands every byte to its sink
 * exactly once and in order; what it does not know is passed on as opaque bytes from there to the end.
 *
 *   main   "QEVM" u32 3 [CONFIGURATION] ( COMMAND | START/PART/END of "ram" + records + EOS [FOOTER] )* (EOF | opaque)
 *   ram    bare RAM records: the second channel of `postcopy-preempt`
 */
import {
  CAPABILITIES_MAX,
  COMMAND_PACKAGED,
  FILE_MAGIC,
  FILE_VERSION,
  MACHINE_NAME_MAX_BYTES,
  PACKAGED_MAX_BYTES,
  PACKED_PAGE_MAX_BYTES,
  PAGE_BITS,
  PAGE_BYTES,
  RAM_BLOCKS_MAX,
  RAM_COMPRESS_PAGE,
  RAM_CONTINUE,
  RAM_EOS,
  RAM_MEM_SIZE,
  RAM_MULTIFD_FLUSH,
  RAM_NAME,
  RAM_PAGE,
  RAM_VERSION,
  RAM_XBZRLE,
  RAM_ZERO,
  SECTION_COMMAND,
  SECTION_CONFIGURATION,
  SECTION_END,
  SECTION_EOF,
  SECTION_FOOTER,
  SECTION_FULL,
  SECTION_PART,
  SECTION_START,
  SECTION_SUBSECTION,
} from './constants.ts';
import { fail } from './errors.ts';

/** Where the bytes go. Each call covers `buf[start, end)`, which is only valid during the call. */
export interface StreamSink {
  /** A page record: u64 header, the block's name as u8 + text unless it is the previous record's, and `PAGE_BYTES`. */
  dataPage(buf: Buffer, start: number, end: number, page: number, nameBytes: number): void;
  /** A page record whose page is all zero: u64 header, name as above, and one byte 0. */
  zeroPage(buf: Buffer, start: number, end: number, page: number, nameBytes: number): void;
  /** A page in a form of QEMU's own (XBZRLE, zlib, a zero record with another byte). */
  packedPage(buf: Buffer, start: number, end: number, page: number, nameBytes: number): void;
  /** Anything else of the RAM sections: section headers, EOS, footers. */
  memory(buf: Buffer, start: number, end: number): void;
  /** A piece of anything else, until `endItem`. */
  device(buf: Buffer, start: number, end: number): void;
  /** Called before the bytes of the command. `data` is a copy. */
  command(id: number, data: Buffer): void;
  /** Called before the bytes of the PACKAGED command; `lengthBytes` of the blob follow as `packaged` calls. */
  packagedStart(lengthBytes: number): void;
  packaged(buf: Buffer, start: number, end: number): void;
  packagedEnd(): void;
  blocks(blocks: readonly RamBlock[]): void;
  /** The EOS record of a RAM section was seen; `type` is SECTION_START, _PART or _END. */
  sectionEnd(type: number): void;
  /** From here to the end nothing is parsed any more. Called before those bytes. */
  rest(why: RestReason, detail: string): void;
  /** `buf` of earlier calls is about to be overwritten. */
  settle(): void;
}

export interface RamBlock {
  readonly name: string;
  readonly lengthBytes: number;
}

/**
 * Why the rest of a stream is opaque: `devices` follow the last RAM section (QEMU completed as pre-copy), `eof` was seen
 * (post-copy is complete), the stream ended inside a record (`truncated`), or it holds something `unknown`.
 */
export type RestReason = 'devices' | 'eof' | 'truncated' | 'unknown';

type State =
  | 'file-header'
  | 'section'
  | 'configuration'
  | 'configuration-data'
  | 'ram'
  | 'ram-blocks'
  | 'packaged'
  | 'opaque';

/** The longest record that must be whole before it is handed on: a command with the most data. */
const CARRY_BYTES = 5 + 0xffff;

/**
 * A step reads one record at `buf[pos, end)`. It returns how many bytes it took, or, when the record is not whole,
 * minus the number of bytes (from `pos`) that it must see before it can decide further.
 */
export class StreamParser {
  readonly #sink: StreamSink;
  readonly #mode: 'main' | 'ram';
  #state: State;
  #carry = Buffer.alloc(0);
  #carryLength = 0;
  #carryNeed = 0;
  #ramSectionId = -1;
  #sectionType = 0;
  /** A footer may follow the RAM section that just ended. */
  #footerAllowed = false;
  #packagedLeft = 0;
  #sizeLeft = 0;
  #blocks: RamBlock[] = [];
  /** A page size may follow the last block of the list (see `#ramBlocks`). */
  #blocksDone = false;

  constructor(mode: 'main' | 'ram', sink: StreamSink) {
    this.#mode = mode;
    this.#sink = sink;
    this.#state = mode === 'main' ? 'file-header' : 'ram';
  }

  /** True between the PACKAGED command and the end of its blob. */
  get insidePackaged(): boolean {
    return this.#state === 'packaged';
  }

  push(chunk: Buffer): void {
    const end = chunk.length;
    let pos = this.#carryLength > 0 ? this.#fillCarry(chunk) : 0;
    while (pos < end) {
      const taken = this.#step(chunk, pos, end);
      if (taken < 0) {
        this.#reserveCarry(-taken);
        chunk.copy(this.#carry, 0, pos, end);
        this.#carryLength = end - pos;
        this.#carryNeed = -taken;
        break;
      }
      pos += taken;
    }
    this.#sink.settle();
  }

  /** The stream has ended: what is left of an unfinished record is passed on as opaque bytes. */
  end(): void {
    if (this.#carryLength > 0) {
      this.#rest('truncated', 'inside a record', this.#carry, 0, this.#carryLength);
    } else if (this.#state === 'packaged') {
      this.#sink.rest('truncated', 'inside the device package');
    }
    this.#carryLength = 0;
    this.#state = 'opaque';
    this.#sink.settle();
  }

  /** Completes the record that straddles chunks; returns the position in `chunk` after it. */
  #fillCarry(chunk: Buffer): number {
    let pos = 0;
    while (pos < chunk.length) {
      const part = Math.min(this.#carryNeed - this.#carryLength, chunk.length - pos);
      chunk.copy(this.#carry, this.#carryLength, pos, pos + part);
      this.#carryLength += part;
      pos += part;
      if (this.#carryLength < this.#carryNeed) break;
      const taken = this.#step(this.#carry, 0, this.#carryLength);
      if (taken >= 0) {
        // Needs are exact: a record that is whole ends where the carry does.
        this.#carryLength = 0;
        this.#sink.settle();
        break;
      }
      this.#reserveCarry(-taken);
      this.#carryNeed = -taken;
    }
    return pos;
  }

  #reserveCarry(needBytes: number): void {
    if (this.#carry.length >= needBytes) return;
    const grown = Buffer.allocUnsafeSlow(needBytes <= 2 * PAGE_BYTES ? 2 * PAGE_BYTES : CARRY_BYTES);
    this.#carry.copy(grown, 0, 0, this.#carryLength);
    this.#carry = grown;
  }

  #step(buf: Buffer, pos: number, end: number): number {
    switch (this.#state) {
      case 'ram':
        return this.#ramRecord(buf, pos, end);
      case 'section':
        return this.#section(buf, pos, end);
      case 'packaged':
        return this.#packaged(buf, pos, end);
      case 'opaque':
        this.#sink.device(buf, pos, end);
        return end - pos;
      case 'ram-blocks':
        return this.#ramBlocks(buf, pos, end);
      case 'file-header':
        return this.#fileHeader(buf, pos, end);
      case 'configuration':
        return this.#configuration(buf, pos, end);
      case 'configuration-data':
        return this.#configurationData(buf, pos, end);
      default:
        return this.#state satisfies never;
    }
  }

  #unknown(detail: string, buf: Buffer, pos: number, end: number): number {
    return this.#rest('unknown', detail, buf, pos, end);
  }

  #rest(why: RestReason, detail: string, buf: Buffer, pos: number, end: number): number {
    this.#sink.rest(why, detail);
    this.#state = 'opaque';
    this.#sink.device(buf, pos, end);
    return end - pos;
  }

  #fileHeader(buf: Buffer, pos: number, end: number): number {
    if (end - pos < 8) return -8;
    if (buf.readUInt32BE(pos) !== FILE_MAGIC) return this.#unknown('no QEVM header', buf, pos, end);
    const version = buf.readUInt32BE(pos + 4);
    if (version !== FILE_VERSION) return this.#unknown(`file version ${version}`, buf, pos, end);
    this.#sink.device(buf, pos, pos + 8);
    this.#state = 'section';
    return 8;
  }

  /** u8 7, u32 length, machine name; then subsections, which have no length of their own. */
  #configuration(buf: Buffer, pos: number, end: number): number {
    if (end - pos < 5) return -5;
    const nameLength = buf.readUInt32BE(pos + 1);
    if (nameLength > MACHINE_NAME_MAX_BYTES) return this.#unknown('machine name too long', buf, pos, end);
    const need = 5 + nameLength;
    if (end - pos < need) return -need;
    this.#sink.device(buf, pos, pos + need);
    this.#state = 'section';
    return need;
  }

  /** u8 5, u8 + name, u32 version, and the fields of one of the three subsections that QEMU has. */
  #configurationData(buf: Buffer, pos: number, end: number): number {
    if (end - pos < 2) return -2;
    const head = 2 + buf.readUInt8(pos + 1) + 4;
    if (end - pos < head) return -head;
    const name = buf.toString('latin1', pos + 2, pos + head - 4);
    let need = head;
    if (name === 'configuration/target-page-bits') {
      need += 4;
      if (end - pos < need) return -need;
      const bits = buf.readUInt32BE(pos + head);
      if (bits !== PAGE_BITS) return this.#unknown(`pages of 2^${bits} bytes`, buf, pos, end);
    } else if (name === 'configuration/uuid') {
      need += 16;
    } else if (name === 'configuration/capabilities') {
      need += 4;
      if (end - pos < need) return -need;
      const count = buf.readUInt32BE(pos + head);
      if (count > CAPABILITIES_MAX) return this.#unknown('too many capabilities', buf, pos, end);
      for (let i = 0; i < count; i++) {
        if (end - pos < need + 1) return -(need + 1);
        need += 1 + buf.readUInt8(pos + need);
      }
    } else {
      return this.#unknown(`subsection "${name}"`, buf, pos, end);
    }
    if (end - pos < need) return -need;
    this.#sink.device(buf, pos, pos + need);
    this.#state = 'section';
    return need;
  }

  #section(buf: Buffer, pos: number, end: number): number {
    const type = buf.readUInt8(pos);
    switch (type) {
      case SECTION_COMMAND:
        return this.#command(buf, pos, end);
      case SECTION_PART:
      case SECTION_END:
        return this.#sectionPart(buf, pos, end, type);
      case SECTION_FOOTER:
        return this.#footer(buf, pos, end);
      case SECTION_START:
        return this.#sectionStart(buf, pos, end);
      case SECTION_CONFIGURATION:
        this.#state = 'configuration';
        return this.#configuration(buf, pos, end);
      case SECTION_SUBSECTION:
        this.#state = 'configuration-data';
        return this.#configurationData(buf, pos, end);
      case SECTION_EOF:
        return this.#rest('eof', '', buf, pos, end);
      case SECTION_FULL:
        return this.#sectionType === SECTION_END
          ? this.#rest('devices', '', buf, pos, end)
          : this.#unknown('a device section before the end of RAM', buf, pos, end);
      default:
        return this.#unknown(`section type ${type}`, buf, pos, end);
    }
  }

  /** u8 1, u32 id, u8 + name, u32 instance, u32 version. */
  #sectionStart(buf: Buffer, pos: number, end: number): number {
    if (end - pos < 6) return -6;
    const nameLength = buf.readUInt8(pos + 5);
    const need = 6 + nameLength + 8;
    if (end - pos < need) return -need;
    const name = buf.toString('latin1', pos + 6, pos + 6 + nameLength);
    if (name !== RAM_NAME) return this.#unknown(`section "${name}"`, buf, pos, end);
    const version = buf.readUInt32BE(pos + need - 4);
    if (version !== RAM_VERSION) return this.#unknown(`RAM version ${version}`, buf, pos, end);
    this.#ramSectionId = buf.readUInt32BE(pos + 1);
    this.#enterRam(SECTION_START);
    this.#sink.memory(buf, pos, pos + need);
    return need;
  }

  #sectionPart(buf: Buffer, pos: number, end: number, type: number): number {
    if (end - pos < 5) return -5;
    const id = buf.readUInt32BE(pos + 1);
    if (id !== this.#ramSectionId) return this.#unknown(`section ${id}`, buf, pos, end);
    this.#enterRam(type);
    this.#sink.memory(buf, pos, pos + 5);
    return 5;
  }

  #enterRam(type: number): void {
    this.#sectionType = type;
    this.#footerAllowed = false;
    this.#state = 'ram';
  }

  #footer(buf: Buffer, pos: number, end: number): number {
    if (end - pos < 5) return -5;
    if (!this.#footerAllowed || buf.readUInt32BE(pos + 1) !== this.#ramSectionId) {
      return this.#unknown('a section footer out of place', buf, pos, end);
    }
    this.#footerAllowed = false;
    this.#sink.memory(buf, pos, pos + 5);
    return 5;
  }

  /** u8 8, u16 command, u16 length, data; for PACKAGED the data is the u32 length of the blob that follows. */
  #command(buf: Buffer, pos: number, end: number): number {
    if (end - pos < 5) return -5;
    const id = buf.readUInt16BE(pos + 1);
    const need = 5 + buf.readUInt16BE(pos + 3);
    if (end - pos < need) return -need;
    this.#footerAllowed = false;
    if (id !== COMMAND_PACKAGED) {
      this.#sink.command(id, Buffer.from(buf.subarray(pos + 5, pos + need)));
      this.#sink.device(buf, pos, pos + need);
      return need;
    }
    if (need !== 9) return this.#unknown('a malformed PACKAGED command', buf, pos, end);
    const lengthBytes = buf.readUInt32BE(pos + 5);
    if (lengthBytes > PACKAGED_MAX_BYTES) {
      throw fail('STREAM_PACKAGED_TOO_LARGE', `${lengthBytes} bytes, allowed ${PACKAGED_MAX_BYTES}`, {
        fields: { lengthBytes, limitBytes: PACKAGED_MAX_BYTES },
      });
    }
    this.#sink.packagedStart(lengthBytes);
    this.#sink.packaged(buf, pos, pos + need);
    if (lengthBytes === 0) this.#sink.packagedEnd();
    else this.#state = 'packaged';
    this.#packagedLeft = lengthBytes;
    return need;
  }

  #packaged(buf: Buffer, pos: number, end: number): number {
    const part = Math.min(this.#packagedLeft, end - pos);
    this.#sink.packaged(buf, pos, pos + part);
    this.#packagedLeft -= part;
    if (this.#packagedLeft === 0) {
      this.#sink.packagedEnd();
      this.#state = 'section';
    }
    return part;
  }

  #ramRecord(buf: Buffer, pos: number, end: number): number {
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
    if (flags === RAM_EOS || flags === RAM_MULTIFD_FLUSH) return this.#ramMark(buf, pos, flags);
    if (flags === RAM_MEM_SIZE && this.#sectionType === SECTION_START) return this.#memSize(buf, pos, end);
    if (kind === RAM_XBZRLE || kind === RAM_COMPRESS_PAGE) return this.#packedPage(buf, pos, end, flags);
    return this.#unknown(`RAM flags 0x${flags.toString(16)}`, buf, pos, end);
  }

  #ramMark(buf: Buffer, pos: number, flags: number): number {
    this.#sink.memory(buf, pos, pos + 8);
    if (flags === RAM_EOS && this.#mode === 'main') {
      this.#state = 'section';
      this.#footerAllowed = true;
      this.#sink.sectionEnd(this.#sectionType);
    }
    return 8;
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
    if (length > PACKED_PAGE_MAX_BYTES) return this.#unknown('a packed page too long', buf, pos, end);
    const need = head + length;
    if (end - pos < need) return -need;
    const page = buf.readUInt32BE(pos) * 0x100000 + (buf.readUInt32BE(pos + 4) >>> PAGE_BITS);
    this.#sink.packedPage(buf, pos, pos + need, page, at - 8);
    return need;
  }

  #memSize(buf: Buffer, pos: number, end: number): number {
    const total = Number(buf.readBigUInt64BE(pos) & ~0xfffn);
    if (total === 0 || !Number.isSafeInteger(total)) return this.#unknown('RAM size', buf, pos, end);
    this.#sizeLeft = total;
    this.#blocks = [];
    this.#blocksDone = false;
    this.#state = 'ram-blocks';
    this.#sink.memory(buf, pos, pos + 8);
    return 8;
  }

  /**
   * u8 + name, u64 length, as often as it takes to make up the total. With post-copy, a block of huge pages is followed
   * by u64 page size; its first byte is 0, which no block name's length is, and its low 12 bits are no RAM record's.
   */
  #ramBlocks(buf: Buffer, pos: number, end: number): number {
    if (this.#blocks.length > 0 && (this.#blocksDone || buf[pos] === 0)) {
      if (end - pos < 8) return -8;
      if ((buf.readUInt32BE(pos + 4) & 0xfff) === 0) {
        this.#sink.memory(buf, pos, pos + 8);
        if (this.#blocksDone) this.#finishBlocks();
        return 8;
      }
      if (!this.#blocksDone) return this.#unknown('RAM block without a name', buf, pos, end);
      this.#finishBlocks();
      return this.#ramRecord(buf, pos, end);
    }
    if (end - pos < 1) return -1;
    const nameLength = buf.readUInt8(pos);
    const need = 1 + nameLength + 8;
    if (end - pos < need) return -need;
    const length = buf.readBigUInt64BE(pos + 1 + nameLength);
    if (length === 0n || length > BigInt(this.#sizeLeft) || this.#blocks.length === RAM_BLOCKS_MAX) {
      return this.#unknown('RAM block list', buf, pos, end);
    }
    const lengthBytes = Number(length);
    this.#blocks.push({ name: buf.toString('latin1', pos + 1, pos + 1 + nameLength), lengthBytes });
    this.#sizeLeft -= lengthBytes;
    this.#blocksDone = this.#sizeLeft === 0;
    this.#sink.memory(buf, pos, pos + need);
    return need;
  }

  #finishBlocks(): void {
    this.#sink.blocks(this.#blocks);
    this.#state = 'ram';
  }
}
