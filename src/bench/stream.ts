/**
 * `npm run bench:stream`: how fast one core takes QEMU's migration stream through the memory path (parse and encode;
 * decode and verify; checksums on both sides included), and how small the frames are, for each codec.
 */
import { pageHash } from '../content/pages/hash.ts';
import { type CodecName, zstdPackLater } from '../wire/codec.ts';
import { REPEAT_WINDOW_PAGES } from '../wire/qemu-stream/constants.ts';
import { PAGE_BYTES, StreamDecoder, StreamEncoder } from '../wire/qemu-stream/index.ts';
import { InvalidArgumentError } from 'commander';
import { benchCommand, benchMain, count, positive } from './kit/main.ts';
import { makeRow, metricsTable, type Row } from './kit/rows.ts';
import { lookUpHeld, makeStream, type Mix } from './stream/mix.ts';

/** What a socket gives in one read. */
const CHUNK_BYTES = 64 * 1024;
/** Frames that are being packed beside the parsing, as a mover has them on two cores. */
const FRAMES_AHEAD = 3;

/**
 * `mix`: a desktop guest after boot has about half of its memory untouched; of the rest a fifth is file cache of
 * compressed files, the others are heap and tables (runs of words), text and code. `half`: half of the pages with content
 * are duplicates. `abiword`: as a guest with AbiWord open was measured.
 */
const mixes: Readonly<Record<string, Mix>> = {
  mix: { zero: 50, heap: 15, text: 10, code: 15, random: 10 },
  half: { held: 40, again: 10, heap: 15, text: 10, code: 15, random: 10 },
  abiword: { zero: 60, held: 20, again: 3, heap: 7, text: 3, code: 5, random: 2 },
  zero: { zero: 1 },
  heap: { heap: 1 },
  text: { text: 1 },
  code: { code: 1 },
  random: { random: 1 },
};

type BenchCodec = CodecName | 'content';
const codecs: readonly BenchCodec[] = ['raw', 'rle', 'zstd', 'content'];

const HELP = `
The mixes, in pages of a hundred:
${Object.entries(mixes)
  .map(([name, mix]) => {
    const shares = Object.entries(mix).map(([kind, share]) => `${kind} ${share}`);
    return shares.length > 1 ? `  ${name.padEnd(7)} ${shares.join(', ')}\n` : '';
  })
  .join('')}
  zero    ZERO records of 9 bytes
  heap    words that repeat, with zeros between them: tables, pixels, freed memory
  text    English-like words
  code    bytes with the skewed distribution of machine code
  random  compressed or encrypted data
  held    pages of a base image that both sites have, each drawn at random: no neighbours
  again   pages that were sent before
Codec "content" is zstd with references and repeats; its decoding includes the check of each reference's hash.
Stretches of 1 to 32 pages of one kind follow each other; the same seed gives the same stream.
MB/s counts stream bytes (zero pages are 9 bytes of it) by CPU time of all threads, of the fastest pass: other work on the
machine only ever adds to it. "memory" counts 4096 bytes a page, both halves together. "wall" is encoding by the clock, with bodies packed
in other threads as in round one, against all in one thread.`;

interface Pass {
  readonly encodeMs: number;
  readonly decodeMs: number;
  readonly encodedBytes: number;
}

interface Kept {
  readonly payload: Buffer;
  readonly referenced: Buffer | undefined;
}

/** CPU time of this process, all of its threads: other load on the machine does not count. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

/** Encodes everything; `keep` is given each frame. */
function encode(chunks: readonly Buffer[], codec: BenchCodec, keep: (frame: Kept) => void): void {
  const packed = codec === 'content' ? 'zstd' : codec;
  const encoder: StreamEncoder = new StreamEncoder(
    { codec: packed, strict: true },
    ({ payload, referenced }) => {
      keep({ payload, referenced });
    },
  );
  if (codec === 'content') encoder.useContent(lookup, REPEAT_WINDOW_PAGES);
  for (const chunk of chunks) encoder.push(chunk);
  encoder.end();
}

function decode(frames: readonly Kept[], codec: BenchCodec): number {
  const repeatPages = codec === 'content' ? REPEAT_WINDOW_PAGES : 0;
  const decoder = new StreamDecoder({ repeatPages, reuseOutput: true });
  let bytes = 0;
  for (const { payload, referenced } of frames) {
    if (referenced) for (let at = 0; at < referenced.length; at += PAGE_BYTES) pageHash(referenced, at);
    bytes += decoder.push(payload, referenced).length;
  }
  return bytes;
}

/** Encodes twice: with frames that go at once, as over a link, for the time; and to have something to decode. */
function pass(chunks: readonly Buffer[], codec: BenchCodec): Pass {
  let encodedBytes = 0;
  const start = cpuMs();
  encode(chunks, codec, ({ payload }) => (encodedBytes += payload.length));
  const encodedAt = cpuMs();
  const frames: Kept[] = [];
  encode(chunks, codec, (frame) => frames.push(frame));
  const decodeAt = cpuMs();
  decode(frames, codec);
  return { encodeMs: encodedAt - start, decodeMs: cpuMs() - decodeAt, encodedBytes };
}

/** The time by the clock, with bodies packed in other threads or on the spot, as in round one. */
async function wallMs(chunks: readonly Buffer[], isBackground: boolean): Promise<number> {
  let sending: Promise<unknown> = Promise.resolve();
  let ahead = 0;
  const encoder = new StreamEncoder(
    {
      strict: true,
      background: {
        packer: () => (isBackground ? zstdPackLater : undefined),
        emit: (frame) => {
          ahead += 1;
          sending = sending.then(async () => {
            await frame;
            ahead -= 1;
          });
        },
      },
    },
    () => {},
  );
  encoder.useContent(lookup, REPEAT_WINDOW_PAGES);
  const start = performance.now();
  for (const chunk of chunks) {
    encoder.push(chunk);
    if (ahead > FRAMES_AHEAD) await sending;
  }
  encoder.end();
  await sending;
  return performance.now() - start;
}

const rate = (bytes: number, ms: number): number => Math.round(bytes / 1000 / ms);

function chunksOf(stream: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = 0; at < stream.length; at += CHUNK_BYTES) chunks.push(stream.subarray(at, at + CHUNK_BYTES));
  return chunks;
}

/** Passes for about `seconds`, the first one (compilation) not counted; the fastest of each half is reported. */
function measure(name: string, stream: Buffer, pages: number, codec: BenchCodec, seconds: number): Row[] {
  const chunks = chunksOf(stream);
  pass(chunks, codec);
  const passes: Pass[] = [];
  const start = performance.now();
  while (passes.length < 3 || performance.now() - start < seconds * 1000) passes.push(pass(chunks, codec));
  const encodeMs = Math.min(...passes.map((one) => one.encodeMs));
  const decodeMs = Math.min(...passes.map((one) => one.decodeMs));
  const encodedBytes = passes[0]?.encodedBytes ?? 0;
  const row = (metric: string, value: number): Row => makeRow(`${name} ${codec}`, metric, value);
  return [
    row('encodeMBps', rate(stream.length, encodeMs)),
    row('decodeMBps', rate(stream.length, decodeMs)),
    row('memoryMBps', rate(pages * PAGE_BYTES, encodeMs + decodeMs)),
    row('encodedPercent', Math.round((encodedBytes / stream.length) * 1000) / 10),
  ];
}

/** How much faster by the clock the encoder is with other threads to pack; pairs, so that other load hits both. */
async function measureThreads(name: string, stream: Buffer, seconds: number): Promise<Row[]> {
  const chunks = chunksOf(stream);
  const best = { inline: Number.POSITIVE_INFINITY, threads: Number.POSITIVE_INFINITY };
  const start = performance.now();
  while (performance.now() - start < seconds * 1000) {
    best.inline = Math.min(best.inline, await wallMs(chunks, false));
    best.threads = Math.min(best.threads, await wallMs(chunks, true));
  }
  const row = (metric: string, ms: number): Row =>
    makeRow(`${name} content`, metric, rate(stream.length, ms));
  return [row('wallMBps', best.threads), row('wallOneThreadMBps', best.inline)];
}

const list =
  (known: readonly string[]) =>
  (text: string): string[] => {
    const names = text.split(',');
    for (const name of names)
      if (!known.includes(name)) throw new InvalidArgumentError(`${name} is none of ${known.join(', ')}.`);
    return names;
  };

const command = benchCommand(
  'stream',
  'MB/s of migration stream on one core, parse + encode, and decode + verify, by codec',
)
  .option('--seconds <n>', 'time for each case', positive, 2)
  .option('--pages <n>', 'guest pages in the stream', count, 32_768)
  .option('--mixes <list>', 'only these mixes', list(Object.keys(mixes)), Object.keys(mixes))
  .option('--codecs <list>', 'only these codecs', list(codecs), [...codecs])
  .addHelpText('after', HELP);

interface Options {
  seconds: number;
  pages: number;
  mixes: string[];
  codecs: BenchCodec[];
}

const lookup = await lookUpHeld();

await benchMain(command, async (signal) => {
  const options = command.opts<Options>();
  const { seconds, pages } = options;
  const rows: Row[] = [];
  for (const name of options.mixes) {
    const stream = makeStream(pages, mixes[name] ?? {});
    for (const codec of options.codecs) {
      rows.push(...measure(name, stream, pages, codec, seconds));
      // a case keeps the event loop for itself: signals are seen between two
      await new Promise((resolve) => setImmediate(resolve));
      signal.throwIfAborted();
    }
    if (options.codecs.includes('content')) rows.push(...(await measureThreads(name, stream, seconds)));
  }
  return { rows, text: metricsTable(rows) };
});
