/**
 * Push parser of the QEMU migration stream. It finds the RAM pages and the commands, and hands every byte to its sink
 * exactly once and in order; what it does not know is passed on as opaque bytes from there to the end.
 *
 *   main   "QEVM" u32 3 [CONFIGURATION] ( COMMAND | START/PART/END of "ram" + records + EOS [FOOTER] )* (EOF | opaque)
 *   ram    bare RAM records: the second channel of `postcopy-preempt`
 */
import {
  COMMAND_PACKAGED,
  FILE_MAGIC,
  FILE_VERSION,
  PACKAGED_MAX_BYTES,
  PAGE_BYTES,
  RAM_NAME,
  RAM_VERSION,
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
import { machineLength, subsectionLength } from './configuration.ts';
import { fail } from './errors.ts';
import { RamParser } from './ram.ts';
import type { RestReason, StreamSink } from './sink.ts';

type State = 'file-header' | 'section' | 'ram' | 'packaged' | 'opaque';

/** The longest record that must be whole before it is handed on: a command with the most data. */
const CARRY_BYTES = 5 + 0xffff;

/**
 * A step reads one record at `buf[pos, end)`. It returns how many bytes it took, or, when the record is not whole,
 * minus the number of bytes (from `pos`) that it must see before it can decide further.
 */
export class StreamParser {
  readonly #sink: StreamSink;
  readonly #mode: 'main' | 'ram';
  readonly #ram: RamParser;
  #state: State;
  #carry = Buffer.alloc(0);
  #carryLength = 0;
  #carryNeed = 0;
  #ramSectionId = -1;
  #sectionType = 0;
  /** A footer may follow the RAM section that just ended. */
  #footerAllowed = false;
  #packagedLeft = 0;

  constructor(mode: 'main' | 'ram', sink: StreamSink) {
    this.#mode = mode;
    this.#sink = sink;
    this.#state = mode === 'main' ? 'file-header' : 'ram';
    this.#ram = new RamParser(sink, {
      unknown: (detail, buf, pos, end) => this.#unknown(detail, buf, pos, end),
      endOfRecords: () => this.#endOfRecords(),
    });
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
        return this.#ram.step(buf, pos, end);
      case 'section':
        return this.#section(buf, pos, end);
      case 'packaged':
        return this.#packaged(buf, pos, end);
      case 'opaque':
        this.#sink.device(buf, pos, end);
        return end - pos;
      case 'file-header':
        return this.#fileHeader(buf, pos, end);
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

  /** A record of the configuration: `measure` gives its length, minus the bytes it needs, or what is wrong. */
  #configuration(measure: typeof machineLength, buf: Buffer, pos: number, end: number): number {
    const length = measure(buf, pos, end);
    if (typeof length === 'string') return this.#unknown(length, buf, pos, end);
    if (length > 0) this.#sink.device(buf, pos, pos + length);
    return length;
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
        return this.#configuration(machineLength, buf, pos, end);
      case SECTION_SUBSECTION:
        return this.#configuration(subsectionLength, buf, pos, end);
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
    this.#ram.enter(type === SECTION_START);
    this.#state = 'ram';
  }

  /** The second channel has no sections: there EOS is one record among others. */
  #endOfRecords(): void {
    if (this.#mode === 'ram') return;
    this.#state = 'section';
    this.#footerAllowed = true;
    this.#sink.sectionEnd(this.#sectionType);
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
}
