/**
 * `npm run bench:stream`: how fast one core takes QEMU's migration stream through the memory path (parse, encode,
 * decode, checksums on both sides included), and how small the frames are, for each codec.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildPageIndex } from '../content/pages/builder.ts';
import { pageHash } from '../content/pages/hash.ts';
import { PageLookup } from '../content/pages/lookup.ts';
import { decodePageIndex } from '../content/pages/page-index.ts';
import type { CodecName } from '../wire/codec.ts';
import { REPEAT_WINDOW_PAGES } from '../wire/qemu-stream/constants.ts';
import { PAGE_BYTES, StreamDecoder, StreamEncoder } from '../wire/qemu-stream/index.ts';
import { StreamWriter } from '../wire/qemu-stream/writer.ts';
import { benchCommand, benchMain, count, positive } from './kit/main.ts';
import { makeRow, metricsTable, type Row } from './kit/rows.ts';

const RAM_ID = 2;
/** What a socket gives in one read. */
const CHUNK_BYTES = 64 * 1024;

/**
 * The mix, in pages of a hundred. A desktop guest after boot has about half of its memory untouched; of the rest a fifth
 * is file cache of compressed files, the others are heap and tables (runs of words), text and code.
 */
const MIX = { zero: 50, heap: 15, text: 10, code: 15, random: 10 } as const;

/** Half of the pages stand in the base image, the others are those of the mix that have content. */
const HELD_MIX = { held: 50, heap: 15, text: 10, code: 15, random: 10 } as const;
/** Different pages of the base image that the mix draws from. */
const HELD_PAGES = 8192;

type PageKind = keyof typeof MIX | 'held';

const HELP = `
The mix (percent of guest pages): ${Object.entries(MIX)
  .map(([kind, share]) => `${kind} ${share}`)
  .join(', ')}.
  zero    ZERO records of 9 bytes
  heap    words that repeat, with zeros between them: tables, pixels, freed memory
  text    English-like words
  code    bytes with the skewed distribution of machine code
  random  compressed or encrypted data
  held    pages of a base image that both sites have, each drawn at random (mix "half": ${HELD_MIX.held} of 100, no zero pages)
Codec "content" is zstd with references and repeats; its decoding includes the check of each reference's hash.
Stretches of 1 to 32 pages of one kind follow each other; the same seed gives the same stream.
MB/s counts stream bytes (zero pages are 9 bytes of it) by CPU time; "memory" counts 4096 bytes a page.`;

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

function fill(page: Buffer, kind: PageKind, next: () => number): void {
  let at = 0;
  if (kind === 'zero') page.fill(0);
  else if (kind === 'held') heldPage(next() % HELD_PAGES).copy(page);
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
      page[at] =
        r % 4 === 0
          ? (r >>> 8) & 0xff
          : ([0x48, 0x89, 0x8b, 0x00, 0x0f, 0xe8, 0x24, 0xff][(r >>> 8) & 7] ?? 0);
    }
  } else {
    for (; at < PAGE_BYTES; at += 4) page.writeUInt32LE(next(), at);
  }
}

/** Page `i` of the base image. */
function heldPage(i: number): Buffer {
  return held.subarray(i * PAGE_BYTES, (i + 1) * PAGE_BYTES);
}

function makeHeld(): Buffer {
  const next = generator(7);
  const pages = Buffer.alloc(HELD_PAGES * PAGE_BYTES);
  for (let at = 0; at < pages.length; at += 4) pages.writeUInt32LE(next(), at);
  return pages;
}

/** What a source knows of the base image. */
async function lookUp(image: Buffer): Promise<PageLookup> {
  const folder = await mkdtemp(join(tmpdir(), 'cloudap-bench-'));
  try {
    await writeFile(join(folder, 'disk'), image);
    return new PageLookup([decodePageIndex(await buildPageIndex(join(folder, 'disk')))]);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** One round of a machine with `pages` pages of the given kinds. */
function makeStream(pages: number, mix: Readonly<Partial<Record<PageKind, number>>>): Buffer {
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

interface Pass {
  readonly encodeMs: number;
  readonly decodeMs: number;
  readonly encodedBytes: number;
}

/** CPU time of this process, all of its threads: other load on the machine does not count. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

type BenchCodec = CodecName | 'content';

function pass(chunks: readonly Buffer[], codec: BenchCodec): Pass {
  let decodeMs = 0;
  let encodedBytes = 0;
  const repeatPages = codec === 'content' ? REPEAT_WINDOW_PAGES : 0;
  const decoder = new StreamDecoder({ repeatPages });
  const packed = codec === 'content' ? 'zstd' : codec;
  const encoder = new StreamEncoder({ codec: packed, strict: true }, (frame) => {
    const start = cpuMs();
    const { referenced } = frame;
    for (let at = 0; at < (referenced?.length ?? 0); at += PAGE_BYTES) pageHash(referenced ?? held, at);
    decoder.push(frame.payload, referenced);
    decodeMs += cpuMs() - start;
    encodedBytes += frame.payload.length;
  });
  if (codec === 'content') encoder.useContent(lookup, repeatPages);
  const start = cpuMs();
  for (const chunk of chunks) encoder.push(chunk);
  encoder.end();
  return { encodeMs: cpuMs() - start - decodeMs, decodeMs, encodedBytes };
}

/** Passes for about `seconds`, the first one (compilation) not counted; the median pass is reported. */
function measure(name: string, stream: Buffer, pages: number, codec: BenchCodec, seconds: number): Row[] {
  const chunks: Buffer[] = [];
  for (let at = 0; at < stream.length; at += CHUNK_BYTES) chunks.push(stream.subarray(at, at + CHUNK_BYTES));
  pass(chunks, codec);
  const passes: Pass[] = [];
  const start = performance.now();
  while (passes.length < 3 || performance.now() - start < seconds * 1000) passes.push(pass(chunks, codec));
  passes.sort((a, b) => a.encodeMs + a.decodeMs - b.encodeMs - b.decodeMs);
  const { encodeMs, decodeMs, encodedBytes } = passes[passes.length >> 1] as Pass;
  const rate = (bytes: number, ms: number): number => Math.round(bytes / 1000 / ms);
  const row = (metric: string, value: number): Row => makeRow(`${name} ${codec}`, metric, value);
  return [
    row('streamMBps', rate(stream.length, encodeMs + decodeMs)),
    row('encodeMBps', rate(stream.length, encodeMs)),
    row('decodeMBps', rate(stream.length, decodeMs)),
    row('memoryMBps', rate(pages * PAGE_BYTES, encodeMs + decodeMs)),
    row('encodedPercent', Math.round((encodedBytes / stream.length) * 1000) / 10),
  ];
}

const command = benchCommand(
  'stream',
  'MB/s of migration stream on one core, parse + encode + decode, by codec',
)
  .option('--seconds <n>', 'time for each case', positive, 2)
  .option('--pages <n>', 'guest pages in the stream', count, 32_768)
  .addHelpText('after', HELP);

interface Options {
  seconds: number;
  pages: number;
}

const held = makeHeld();
const lookup = await lookUp(held);
const codecs: readonly BenchCodec[] = ['raw', 'rle', 'zstd', 'content'];
const mixes: readonly [string, Partial<Record<PageKind, number>>][] = [
  ['mix', MIX],
  ['half', HELD_MIX],
  ['zero', { zero: 1 }],
  ['heap', { heap: 1 }],
  ['text', { text: 1 }],
  ['code', { code: 1 }],
  ['random', { random: 1 }],
];

await benchMain(command, async (signal) => {
  const { seconds, pages } = command.opts<Options>();
  const rows: Row[] = [];
  for (const [name, mix] of mixes) {
    const stream = makeStream(pages, mix);
    for (const codec of codecs) {
      rows.push(...measure(name, stream, pages, codec, seconds));
      // a case keeps the event loop for itself: signals are seen between two
      await new Promise((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
    }
  }
  return { rows, text: metricsTable(rows) };
});
