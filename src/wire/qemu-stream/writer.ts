import * as qemu from './constants.ts';

/** Writes a QEMU migration stream piece by piece, as QEMU does: input of tests and of the benchmark. */
export class StreamWriter {
  readonly #pieces: Buffer[] = [];

  take(): Buffer {
    const stream = Buffer.concat(this.#pieces);
    this.#pieces.length = 0;
    return stream;
  }

  bytes(data: Buffer | readonly number[]): this {
    this.#pieces.push(Buffer.from(data));
    return this;
  }

  u32(value: number): this {
    const buf = Buffer.alloc(4);
    buf.writeUInt32BE(value);
    return this.bytes(buf);
  }

  u64(value: bigint): this {
    const buf = Buffer.alloc(8);
    buf.writeBigUInt64BE(value);
    return this.bytes(buf);
  }

  /** u8 + text. */
  name(text: string): this {
    return this.bytes([text.length]).bytes(Buffer.from(text, 'latin1'));
  }

  fileHeader(version: number = qemu.FILE_VERSION): this {
    return this.u32(qemu.FILE_MAGIC).u32(version);
  }

  configuration(machine: string): this {
    return this.bytes([qemu.SECTION_CONFIGURATION]).u32(machine.length).bytes(Buffer.from(machine, 'latin1'));
  }

  subsection(name: string, data: Buffer): this {
    return this.bytes([qemu.SECTION_SUBSECTION]).name(name).u32(1).bytes(data);
  }

  command(id: number, data: Buffer = Buffer.alloc(0)): this {
    return this.bytes([
      qemu.SECTION_COMMAND,
      id >>> 8,
      id & 0xff,
      data.length >>> 8,
      data.length & 0xff,
    ]).bytes(data);
  }

  packaged(blob: Buffer): this {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(blob.length);
    return this.command(qemu.COMMAND_PACKAGED, length).bytes(blob);
  }

  sectionStart(id: number, name: string = qemu.RAM_NAME, version: number = qemu.RAM_VERSION): this {
    return this.bytes([qemu.SECTION_START]).u32(id).name(name).u32(0).u32(version);
  }

  sectionPart(id: number): this {
    return this.bytes([qemu.SECTION_PART]).u32(id);
  }

  sectionEnd(id: number): this {
    return this.bytes([qemu.SECTION_END]).u32(id);
  }

  footer(id: number): this {
    return this.bytes([qemu.SECTION_FOOTER]).u32(id);
  }

  /** The block list; a block of huge pages carries its page size. */
  memSize(
    blocks: readonly { name: string; lengthBytes: number; hugePageBytes?: number | undefined }[],
  ): this {
    const total = blocks.reduce((sum, block) => sum + block.lengthBytes, 0);
    this.u64(BigInt(total) | BigInt(qemu.RAM_MEM_SIZE));
    for (const block of blocks) {
      this.name(block.name).u64(BigInt(block.lengthBytes));
      if (block.hugePageBytes !== undefined) this.u64(BigInt(block.hugePageBytes));
    }
    return this;
  }

  /** Header of a page record; `block` undefined means CONTINUE. */
  #page(page: number, flag: number, block: string | undefined): this {
    const flags = block === undefined ? flag | qemu.RAM_CONTINUE : flag;
    this.u64(BigInt(page) * BigInt(qemu.PAGE_BYTES) + BigInt(flags));
    return block === undefined ? this : this.name(block);
  }

  dataPage(page: number, body: Buffer, block?: string): this {
    return this.#page(page, qemu.RAM_PAGE, block).bytes(body);
  }

  zeroPage(page: number, block?: string, fill = 0): this {
    return this.#page(page, qemu.RAM_ZERO, block).bytes([fill]);
  }

  xbzrlePage(page: number, data: Buffer, block?: string): this {
    return this.#page(page, qemu.RAM_XBZRLE, block)
      .bytes([1, data.length >>> 8, data.length & 0xff])
      .bytes(data);
  }

  compressedPage(page: number, data: Buffer, block?: string): this {
    return this.#page(page, qemu.RAM_COMPRESS_PAGE, block).u32(data.length).bytes(data);
  }

  multifdFlush(): this {
    return this.u64(BigInt(qemu.RAM_MULTIFD_FLUSH));
  }

  eos(): this {
    return this.u64(BigInt(qemu.RAM_EOS));
  }
}
