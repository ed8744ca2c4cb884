/**
 * What a mover does while it waits for its configuration: it goes through its inner loops once, on made-up data. What V8 has
 * compiled by then need not be interpreted, and compiled, while a VM stands still.
 */
import { encodePageIndex, decodePageIndex } from '../../content/pages/page-index.ts';
import { PageLookup } from '../../content/pages/lookup.ts';
import { HASH_BYTES } from '../../content/pages/constants.ts';
import { pageHash } from '../../content/pages/hash.ts';
import { crc32 } from 'node:zlib';
import { CODEC_ZSTD } from '../../wire/codec.ts';
import * as disk from '../../wire/disk/index.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { StreamDecoder } from '../../wire/qemu-stream/decoder.ts';
import { StreamEncoder } from '../../wire/qemu-stream/encoder.ts';
import { StreamWriter } from '../../wire/qemu-stream/writer.ts';
import { ownershipSchema } from '../ownership.ts';

const RAM_ID = 2;
const PAGES = 1024;
const CHUNK_BYTES = 64 * 1024;
const ROUNDS = 4;
const METADATA_SECTORS = 32;
const WINDOW_PAGES = 64;

/** Takes some tenths of a second of one core, and leaves nothing. */
export function rehearse(): void {
  const held = pageOf(0);
  const columns = {
    entries: 1,
    pages: Uint32Array.of(0),
    crcs: Uint32Array.of(crc32(held)),
    hashes: Buffer.from(pageHash(held, 0).slice(0, HASH_BYTES), 'latin1'),
  };
  const lookup = new PageLookup([decodePageIndex(encodePageIndex(columns, Buffer.alloc(32), PAGE_BYTES))]);
  const stream = streamOf(held);
  for (let round = 0; round < ROUNDS; round++) {
    rehearseMemory(stream, lookup, held);
    rehearseDisk();
    ownershipSchema.safeParse({
      version: 1,
      vmId: 'x',
      owner: 'x',
      generation: 1,
      state: 'owned',
      peer: null,
    });
  }
}

function rehearseMemory(stream: Buffer, lookup: PageLookup, held: Buffer): void {
  const decoder = new StreamDecoder({ repeatPages: WINDOW_PAGES, reuseOutput: true });
  const encoder = new StreamEncoder({ codec: 'zstd' }, (frame) => {
    const count = StreamDecoder.references(frame.payload).length;
    decoder.push(
      frame.payload,
      count === 0 ? undefined : Buffer.concat(Array.from({ length: count }, () => held)),
    );
    frame.recycle?.();
  });
  encoder.useContent(lookup, WINDOW_PAGES);
  for (let at = 0; at < stream.length; at += CHUNK_BYTES) encoder.push(stream.subarray(at, at + CHUNK_BYTES));
  encoder.end();
}

function rehearseDisk(): void {
  const run = { first: 0, count: METADATA_SECTORS };
  const sizeBytes = METADATA_SECTORS * disk.SECTOR_BYTES;
  const data = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 64) data.writeUInt32BE(at, at);
  disk.decodeFreeze(disk.encodeFreeze(0, { fileSizeBytes: sizeBytes, metadataSectors: 1, qcow2: true }));
  const message = disk.encodeData(0, 0, run, data, CODEC_ZSTD);
  disk.unpackData(disk.decodeData(message, sizeBytes, disk.MAX_METADATA_EXTENT_BYTES), sizeBytes);
}

/** As QEMU writes it: zero pages, pages that the other side holds, pages that repeat, others, and device state. */
function streamOf(held: Buffer): Buffer {
  const writer = new StreamWriter().fileHeader().configuration('pc').sectionStart(RAM_ID);
  writer.memSize([{ name: 'pc.ram', lengthBytes: PAGES * PAGE_BYTES, hugePageBytes: undefined }]);
  writer.eos().footer(RAM_ID).sectionPart(RAM_ID);
  for (let page = 0; page < PAGES; page++) {
    const block = page === 0 ? 'pc.ram' : undefined;
    if (page % 4 === 0) writer.zeroPage(page, block);
    else if (page % 4 === 1) writer.dataPage(page, held, block);
    else writer.dataPage(page, pageOf(1 + (page % 4 === 2 ? page : 1)), block);
  }
  return writer.eos().footer(RAM_ID).packaged(Buffer.alloc(CHUNK_BYTES, 'state')).take();
}

function pageOf(seed: number): Buffer {
  const page = Buffer.alloc(PAGE_BYTES);
  for (let at = 0; at < PAGE_BYTES; at += 8) page.writeUInt32LE((seed * 2654435761 + at * 40503) >>> 0, at);
  return page;
}
