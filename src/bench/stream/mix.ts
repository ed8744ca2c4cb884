/** Streams like QEMU's for `bench:stream`: made of a mix of pages, the same ones each time. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildPageIndex } from '../../content/pages/builder.ts';
import { PageLookup } from '../../content/pages/lookup.ts';
import { decodePageIndex } from '../../content/pages/page-index.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { StreamWriter } from '../../wire/qemu-stream/writer.ts';

const RAM_ID = 2;
/** Different pages of the base image that a mix draws from. */
const HELD_PAGES = 8192;
/** Different pages that a mix repeats. */
const AGAIN_PAGES = 64;

export type PageKind = 'zero' | 'heap' | 'text' | 'code' | 'random' | 'held' | 'again';
/** Pages of a hundred. */
export type Mix = Readonly<Partial<Record<PageKind, number>>>;

/** A small deterministic generator (xorshift32): 0 <= value < 2^32. */
function generator(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>>= 0);
  };
}

const words =
  'the of and a to in migration page is was it for memory on that by with as guest state be at'.split(' ');
const CODE = [0x48, 0x89, 0x8b, 0x00, 0x0f, 0xe8, 0x24, 0xff];

/** Pages without any pattern: of the base image, or to be repeated. */
function makePages(count: number, seed: number): Buffer {
  const next = generator(seed);
  const pages = Buffer.alloc(count * PAGE_BYTES);
  for (let at = 0; at < pages.length; at += 4) pages.writeUInt32LE(next(), at);
  return pages;
}

const held = makePages(HELD_PAGES, 7);
const again = makePages(AGAIN_PAGES, 11);

function fill(page: Buffer, kind: PageKind, next: () => number): void {
  let at = 0;
  if (kind === 'zero') page.fill(0);
  else if (kind === 'held') held.copy(page, 0, (next() % HELD_PAGES) * PAGE_BYTES);
  else if (kind === 'again') again.copy(page, 0, (next() % AGAIN_PAGES) * PAGE_BYTES);
  else if (kind === 'heap') {
    while (at < PAGE_BYTES) {
      const word = next() % 3 === 0 ? 0xffffffff : next();
      const run = next() % 4 === 0 ? 1 + (next() % 12) : 0;
      for (let i = 0; i <= run && at < PAGE_BYTES; i++, at += 4) page.writeUInt32LE(word, at);
      const end = Math.min(PAGE_BYTES, at + 4 * (next() % 24));
      page.fill(0, at, end);
      at = end;
    }
  } else if (kind === 'text') {
    while (at < PAGE_BYTES) at += page.write(`${words[next() % words.length] ?? ''} `, at, 'latin1');
  } else if (kind === 'code') {
    for (; at < PAGE_BYTES; at++) {
      const r = next();
      page[at] = r % 4 === 0 ? (r >>> 8) & 0xff : (CODE[(r >>> 8) & 7] ?? 0);
    }
  } else {
    for (; at < PAGE_BYTES; at += 4) page.writeUInt32LE(next(), at);
  }
}

/** What a source knows of the base image. */
export async function lookUpHeld(): Promise<PageLookup> {
  const folder = await mkdtemp(join(tmpdir(), 'cloudap-bench-'));
  try {
    await writeFile(join(folder, 'disk'), held);
    return new PageLookup([decodePageIndex(await buildPageIndex(join(folder, 'disk')))]);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** One round of a machine with `pages` pages of the given kinds. */
export function makeStream(pages: number, mix: Mix): Buffer {
  const next = generator(20_26);
  const writer = new StreamWriter().fileHeader().sectionStart(RAM_ID);
  writer
    .memSize([{ name: 'pc.ram', lengthBytes: pages * PAGE_BYTES }])
    .eos()
    .footer(RAM_ID)
    .sectionPart(RAM_ID);
  const shares = Object.entries(mix) as [PageKind, number][];
  const total = shares.reduce((sum, [, share]) => sum + share, 0);
  const body = Buffer.alloc(PAGE_BYTES);
  for (let page = 0; page < pages; ) {
    let pick = next() % total;
    const kind = shares.find(([, share]) => (pick -= share) < 0)?.[0] ?? 'zero';
    for (let left = 1 + (next() % 32); left > 0 && page < pages; left--, page++) {
      const block = page === 0 ? 'pc.ram' : undefined;
      if (kind === 'zero') writer.zeroPage(page, block);
      else {
        fill(body, kind, next);
        writer.dataPage(page, body, block);
      }
    }
  }
  return writer.eos().footer(RAM_ID).sectionEnd(RAM_ID).eos().footer(RAM_ID).bytes([0]).take();
}
