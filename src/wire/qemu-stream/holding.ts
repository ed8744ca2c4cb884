import {
  COMMAND_POSTCOPY_RAM_DISCARD,
  PAGE_BYTES,
  RAM_CONTINUE,
  RAM_EOS,
  RAM_PAGE,
  RAM_ZERO,
  SECTION_COMMAND,
  SECTION_END,
  SECTION_FOOTER,
  SECTION_PART,
} from './constants.ts';
import { fail } from './errors.ts';
import { HeldPages } from './held.ts';
import { StreamParser } from './parser.ts';

/**
 * What a decoder that holds pages back knows of the stream: it follows all of it but the pages, so it knows where something
 * may be put in between, which pages the source takes back, and which block QEMU believes to be the last one.
 */
export class Holding {
  readonly held = new HeldPages();
  readonly #skeleton: StreamParser;
  /** Block of the last record in the source's stream, and of the last one that QEMU was given. */
  streamBlock = '';
  qemuBlock = '';
  #ended = false;
  #lastSection = 0;
  #prepared = false;

  constructor() {
    const ignore = (): void => {};
    this.#skeleton = new StreamParser('main', {
      dataPage: ignore,
      zeroPage: ignore,
      packedPage: (buf, start, _end, page, nameBytes) => this.#packedPage(buf, start, page, nameBytes),
      memory: ignore,
      device: ignore,
      packagedStart: ignore,
      packaged: ignore,
      packagedEnd: ignore,
      sectionEnd: (type) => {
        this.#lastSection = type;
      },
      settle: ignore,
      blocks: (blocks) => this.held.enter(blocks),
      command: (id, data) => {
        if (id === COMMAND_POSTCOPY_RAM_DISCARD) this.#discard(data);
      },
      rest: () => {
        this.#ended = true;
      },
    });
  }

  /** Bytes of the stream that are no page. */
  push(bytes: Buffer): void {
    this.#skeleton.push(bytes);
  }

  /** What was pushed last ends the memory: whatever is held has to be placed before QEMU gets it. */
  get ended(): boolean {
    return this.#ended;
  }

  /**
   * What QEMU must be given in front of the first frame of memory; undefined once it has been. A discard of one page,
   * which is empty: at the first one QEMU forbids huge pages. Otherwise a page that it is given could bring its neighbours
   * along, as zeros: those that are held could not be placed any more, nor be noticed to be missing.
   */
  prologue(): Buffer | undefined {
    const { block } = this.held;
    if (this.#prepared || block === undefined) return undefined;
    this.#prepared = true;
    const name = Buffer.from(block, 'latin1');
    const data = Buffer.alloc(3 + name.length + 16);
    data.writeUInt8(name.length, 1);
    name.copy(data, 2);
    data.writeBigUInt64BE(BigInt(PAGE_BYTES), 3 + name.length + 8);
    const head = Buffer.from([
      SECTION_COMMAND,
      0,
      COMMAND_POSTCOPY_RAM_DISCARD,
      data.length >>> 8,
      data.length & 0xff,
    ]);
    return Buffer.concat([head, data]);
  }

  get boundary(): 'records' | 'sections' | undefined {
    return this.#skeleton.boundary;
  }

  /**
   * Bytes that give QEMU pages of one block at such a boundary. `bodies`: page after page, without those that are zero.
   */
  encode(
    at: 'records' | 'sections',
    block: string,
    pages: readonly number[],
    bodies: Buffer | undefined,
  ): Buffer {
    const name = Buffer.from(block, 'latin1');
    const bodyBytes = bodies ? PAGE_BYTES : 1;
    const sections = at === 'sections';
    const out = Buffer.allocUnsafe(
      pages.length * (8 + bodyBytes) + 1 + name.length + (sections ? 5 + 8 + 5 : 0),
    );
    const id = this.#skeleton.ramSectionId;
    let pos = 0;
    if (sections) {
      // behind the last section of RAM there is none but another last one
      pos = out.writeUInt8(this.#lastSection === SECTION_END ? SECTION_END : SECTION_PART, pos);
      pos = out.writeUInt32BE(id, pos);
    }
    for (const [i, page] of pages.entries()) {
      const flags = (bodies ? RAM_PAGE : RAM_ZERO) | (i === 0 ? 0 : RAM_CONTINUE);
      pos = out.writeBigUInt64BE(BigInt(page) * BigInt(PAGE_BYTES) + BigInt(flags), pos);
      if (i === 0) {
        pos = out.writeUInt8(name.length, pos);
        pos += name.copy(out, pos);
      }
      if (bodies) pos += bodies.copy(out, pos, i * PAGE_BYTES, (i + 1) * PAGE_BYTES);
      else pos = out.writeUInt8(0, pos);
    }
    if (sections) {
      pos = out.writeBigUInt64BE(BigInt(RAM_EOS), pos);
      pos = out.writeUInt8(SECTION_FOOTER, pos);
      pos = out.writeUInt32BE(id, pos);
    }
    this.qemuBlock = block;
    return out;
  }

  /** QEMU is given it as it stands: CloudAP turns these forms off, but a page of one must not be taken for a held one. */
  #packedPage(buf: Buffer, start: number, page: number, nameBytes: number): void {
    if (nameBytes > 0) this.streamBlock = buf.toString('latin1', start + 9, start + 8 + nameBytes);
    else if (this.qemuBlock !== this.streamBlock)
      throw fail('STREAM_FRAME_CORRUPT', 'a packed page behind one that is held');
    this.qemuBlock = this.streamBlock;
    this.held.given(this.streamBlock, page);
  }

  /** u8 version 0, u8 + name, u8 0, then u64 start and u64 length of each range, in bytes. */
  #discard(data: Buffer): void {
    const nameEnd = data.length < 2 ? 0 : 2 + data.readUInt8(1);
    if (
      data.length < nameEnd + 1 ||
      data[0] !== 0 ||
      data[nameEnd] !== 0 ||
      (data.length - nameEnd - 1) % 16 !== 0
    )
      throw fail('STREAM_FRAME_CORRUPT', 'a discard that is not understood');
    const name = data.toString('latin1', 2, nameEnd);
    for (let at = nameEnd + 1; at < data.length; at += 16) {
      const first = Number(data.readBigUInt64BE(at)) / PAGE_BYTES;
      const count = Number(data.readBigUInt64BE(at + 8)) / PAGE_BYTES;
      this.held.discard(name, Math.floor(first), Math.ceil(count));
    }
  }
}
