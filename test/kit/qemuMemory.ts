import { COMMAND_POSTCOPY_RAM_DISCARD, PAGE_BYTES } from '../../src/wire/qemu-stream/constants.ts';
import { StreamParser } from '../../src/wire/qemu-stream/parser.ts';

/**
 * The memory of a target's QEMU as its stream makes it: pages by block and number, missing ones being zero. In post-copy a
 * page is placed once, as the kernel has it: a second time is an error there, and here.
 */
export class QemuMemory {
  readonly pages = new Map<string, Buffer>();
  /** The stream has come to its end. */
  ended = false;
  #block = '';
  #postcopy = false;
  #forbidsHugePages = false;
  readonly #parser: StreamParser;

  constructor() {
    const ignore = (): void => {};
    const put = (buf: Buffer, start: number, nameBytes: number, page: number, body: Buffer): void => {
      if (nameBytes > 0) this.#block = buf.toString('latin1', start + 9, start + 8 + nameBytes);
      const key = `${this.#block} ${page}`;
      if (!this.#forbidsHugePages) throw new Error('a page before huge pages are forbidden');
      if (this.#postcopy && this.pages.has(key)) throw new Error(`File exists: ${key}`);
      this.pages.set(key, Buffer.from(body));
    };
    this.#parser = new StreamParser('main', {
      dataPage: (buf, start, end, page, nameBytes) =>
        put(buf, start, nameBytes, page, buf.subarray(end - PAGE_BYTES, end)),
      zeroPage: (buf, start, _end, page, nameBytes) =>
        put(buf, start, nameBytes, page, Buffer.alloc(PAGE_BYTES)),
      packedPage: () => {
        throw new Error('a page in a form of QEMU’s own');
      },
      memory: ignore,
      device: ignore,
      blocks: ignore,
      sectionEnd: ignore,
      settle: ignore,
      packaged: ignore,
      packagedEnd: ignore,
      packagedStart: () => {
        this.#postcopy = true;
      },
      command: (id, data) => {
        if (id === COMMAND_POSTCOPY_RAM_DISCARD) this.#discard(data);
      },
      rest: (why, detail) => {
        if (why !== 'eof' && why !== 'devices') throw new Error(`${why}: ${detail}`);
        this.ended = true;
      },
    });
  }

  push(bytes: Buffer): void {
    this.#parser.push(bytes);
  }

  get(block: string, page: number): Buffer {
    return this.pages.get(`${block} ${page}`) ?? Buffer.alloc(PAGE_BYTES);
  }

  #discard(data: Buffer): void {
    this.#forbidsHugePages = true;
    const nameEnd = 2 + data.readUInt8(1);
    const block = data.toString('latin1', 2, nameEnd);
    for (let at = nameEnd + 1; at < data.length; at += 16) {
      const first = Number(data.readBigUInt64BE(at)) / PAGE_BYTES;
      const count = Number(data.readBigUInt64BE(at + 8)) / PAGE_BYTES;
      for (let page = first; page < first + count; page++) this.pages.delete(`${block} ${page}`);
    }
  }
}
