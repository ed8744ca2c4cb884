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
