import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  chunkSizes,
  chunksOf,
  codeOf,
  migrationStream,
  noisePage,
  RAM_ID,
  ramStream,
} from '../../../test/kit/qemuStream.ts';
import { zstdPackLater } from '../codec.ts';
import { type ContentLookup, RepeatWindow, type PageSink, type ResidueRule, SentWindow } from './content.ts';
import {
  type EncodedFrame,
  PAGE_BYTES,
  StreamDecoder,
  StreamEncoder,
  type StreamEncoderOptions,
} from './index.ts';
import { StreamWriter } from './writer.ts';

/** Content of the far side: pages by number, found by their bytes. */
class Shelf implements ContentLookup {
  readonly #pages: Buffer[] = [];
  readonly #numbers = new Map<string, number>();

  add(page: Buffer): void {
    this.#numbers.set(page.toString('latin1'), this.#pages.length);
    this.#pages.push(page);
  }

  find(buf: Buffer, start: number, crc: number): number {
    const page = buf.subarray(start, start + PAGE_BYTES);
    expect(crc).toBe(crc32(page));
    return this.#numbers.get(page.toString('latin1')) ?? -1;
  }

  /** What a target gives for a frame; undefined where it refers to nothing. */
  bodies(frame: Buffer): Buffer | undefined {
    const numbers = StreamDecoder.references(frame);
    if (numbers.length === 0) return undefined;
    return Buffer.concat([...numbers].map((number) => this.#pages[number] ?? Buffer.alloc(PAGE_BYTES)));
  }
}

/** Every n-th of the pages that a stream holds: what the far side has by chance. */
function shelfOf(stream: Buffer, every: number): Shelf {
  const shelf = new Shelf();
  const collect: ContentLookup = {
    find: (buf, start, crc) => {
      if (crc % every === 0) shelf.add(Buffer.from(buf.subarray(start, start + PAGE_BYTES)));
      return -1;
    },
  };
  for (const mode of ['main', 'ram'] as const) {
    const encoder = new StreamEncoder({ mode, codec: 'raw' }, () => {});
    encoder.useContent(collect, 0);
    if (codeOf(() => encoder.push(stream)) === 'none') encoder.end();
  }
  return shelf;
}

/** What one end notes. */
class Noted implements PageSink {
  readonly pages: Buffer[] = [];
  add(buf: Buffer, start: number): void {
    this.pages.push(Buffer.from(buf.subarray(start, start + PAGE_BYTES)));
  }
}

function encode(
  chunks: Iterable<Buffer>,
  options: StreamEncoderOptions,
  content: ContentLookup | undefined,
  repeatPages: number,
  between: (encoder: StreamEncoder, count: number) => void = () => {},
  residue?: ResidueRule,
): { frames: EncodedFrame[]; encoder: StreamEncoder } {
  const frames: EncodedFrame[] = [];
  const encoder = new StreamEncoder(options, (frame) => frames.push(frame));
  encoder.useContent(content, repeatPages, residue);
  let count = 0;
  for (const chunk of chunks) {
    const own = Buffer.from(chunk);
    encoder.push(own);
    own.fill(0x5a);
    between(encoder, count++);
  }
  encoder.end();
  return { frames, encoder };
}

describe('what is encoded decodes to the same bytes', () => {
  test.each(['main', 'ram'] as const)('any content, any window, any chunks: %s', (mode) => {
    fc.assert(
      fc.property(
        mode === 'main' ? migrationStream : ramStream,
        chunkSizes,
        fc.constantFrom(1, 2, 3),
        fc.constantFrom(0, 1, 2, 5, 1000),
        fc.constantFrom('raw' as const, 'rle' as const, 'zstd' as const),
        fc.option(fc.nat(20), { nil: undefined }),
        fc.nat(6),
        (stream, sizes, every, window, codec, dropAfter, firstNumber) => {
          const shelf = shelfOf(stream, every);
          const [sent, received] = [new Noted(), new Noted()];
          const { frames, encoder } = encode(
            chunksOf(stream, sizes),
            { mode, codec, frameRawBytes: 8192 },
            shelf,
            window,
            (running, count) => {
              if (count % 5 === 3) running.flush();
              if (count === dropAfter) running.dropContent();
            },
            { firstNumber, sink: sent },
          );
          const reuseOutput = every === 2;
          const residue = { firstNumber, sink: received };
          const decoder = new StreamDecoder({ repeatPages: window, reuseOutput, residue });
          let references = 0;
          const output = frames.map((frame) => {
            const bodies = frame.kind === 'memory' ? shelf.bodies(frame.payload) : undefined;
            // the source keeps just what the target needs
            expect(frame.referenced?.equals(bodies ?? Buffer.alloc(0)) ?? bodies === undefined).toBe(true);
            expect(StreamDecoder.references(frame.payload).length).toBe(frame.referencedPages);
            references += frame.referencedPages;
            const bytes = decoder.push(frame.payload, bodies);
            return reuseOutput ? Buffer.from(bytes) : bytes;
          });
          expect(Buffer.concat(output).equals(stream)).toBe(true);
          const { pagesReferenced, pagesDuplicate, pagesData } = encoder.stats();
          expect(pagesReferenced).toBe(references);
          expect(pagesReferenced + pagesDuplicate).toBeLessThanOrEqual(pagesData);
        },
      ),
      { numRuns: 120 },
    );
  });

  test('neither content nor window: as without, but for the header', () => {
    fc.assert(
      fc.property(migrationStream, (stream) => {
        const { frames } = encode([stream], {}, undefined, 0);
        const decoder = new StreamDecoder();
        expect(Buffer.concat(frames.map((frame) => decoder.push(frame.payload))).equals(stream)).toBe(true);
      }),
      { numRuns: 30 },
    );
  });
});

/** Bare records, as on the second channel: pages by their seed. */
const records = (...seeds: number[]): Buffer => {
  const writer = new StreamWriter();
  for (const [i, seed] of seeds.entries())
    writer.dataPage(10 + i, noisePage(seed), i === 0 ? 'ram' : undefined);
  return writer.eos().take();
};

describe('what is named', () => {
  const shelf = new Shelf();
  for (const seed of [101, 103, 105]) shelf.add(noisePage(seed));

  test('runs of neighbours take a few bytes', () => {
    const stream = records(101, 103, 105, 1, 3, 5, 1, 3, 5, 7);
    const { frames, encoder } = encode([stream], { mode: 'ram', codec: 'raw' }, shelf, 8);
    expect(encoder.stats()).toMatchObject({ pagesData: 10, pagesReferenced: 3, pagesDuplicate: 3 });
    expect(frames.length).toBe(1);
    expect(frames[0]?.payload.length).toBeLessThan(4 * PAGE_BYTES + 80);
    expect([...StreamDecoder.references(frames[0]?.payload ?? Buffer.alloc(0))]).toEqual([0, 1, 2]);
  });

  test('frames grow in stream bytes, not in bodies, and stay within the limit of a decoder', () => {
    const many = records(...Array.from({ length: 2000 }, (_, i) => [101, 103, 105, 1][i % 4] ?? 0));
    const { frames } = encode([many], { mode: 'ram', frameRawBytes: 16_384 }, shelf, 8);
    expect(frames.length).toBeLessThan(140);
    for (const frame of frames) expect(frame.rawBytes).toBeLessThanOrEqual(4 * 16_384 + 2 * PAGE_BYTES);
  });

  test('bodies that have left the window are sent again', () => {
    const stream = records(1, 3, 5, 7, 1, 7, 5, 3, 1);
    const { frames, encoder } = encode([stream], { mode: 'ram', codec: 'raw' }, undefined, 3);
    // window after 1 3 5 7: 3 5 7; 1 is sent: 5 7 1; 7 and 5 are there; 3 is sent: 7 1 3; 1 is there
    expect(encoder.stats().pagesDuplicate).toBe(3);
    const decoder = new StreamDecoder({ repeatPages: 3 });
    expect(Buffer.concat(frames.map((frame) => decoder.push(frame.payload))).equals(stream)).toBe(true);
  });

  test('the window reaches across frames, and is needed there', () => {
    const first = records(1, 3);
    const { frames } = encode([first, first], { mode: 'ram' }, undefined, 8, (encoder) => encoder.flush());
    expect(frames.length).toBe(2);
    const decoder = new StreamDecoder({ repeatPages: 8 });
    for (const frame of frames) expect(decoder.push(frame.payload).equals(first)).toBe(true);
    const second = frames[1]?.payload ?? Buffer.alloc(0);
    expect(codeOf(() => new StreamDecoder({ repeatPages: 8 }).push(second))).toBe('STREAM_FRAME_CORRUPT');
    expect(codeOf(() => new StreamDecoder().push(second))).toBe('STREAM_FRAME_CORRUPT');
  });

  test('a frame is not decoded with other pages, fewer, more or none', () => {
    const stream = records(101, 1, 105);
    const { frames } = encode([stream], { mode: 'ram' }, shelf, 0);
    const frame = frames[0]?.payload ?? Buffer.alloc(0);
    const bodies = shelf.bodies(frame) ?? Buffer.alloc(0);
    expect(new StreamDecoder().push(frame, bodies).equals(stream)).toBe(true);
    for (const wrong of [undefined, bodies.subarray(PAGE_BYTES), Buffer.concat([bodies, bodies])])
      expect(codeOf(() => new StreamDecoder().push(frame, wrong))).toBe('STREAM_CONTENT');
    const flipped = Buffer.from(bodies);
    flipped[5000] = (flipped[5000] ?? 0) ^ 1;
    expect(codeOf(() => new StreamDecoder().push(frame, flipped))).toBe('STREAM_CHECKSUM');
    expect(codeOf(() => new StreamDecoder().push(frames[0]?.payload ?? frame, bodies.subarray(1)))).toBe(
      'STREAM_CONTENT',
    );
  });

  test('any changed byte of such a frame is noticed', () => {
    const stream = records(1, 3, 1, 101, 105, 3);
    const { frames } = encode([stream], { mode: 'ram', codec: 'zstd' }, shelf, 8);
    const good = frames[0]?.payload ?? Buffer.alloc(0);
    fc.assert(
      fc.property(fc.nat(Math.min(120, good.length - 1)), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bad = Buffer.from(good);
        bad[at] = (bad[at] ?? 0) ^ flip;
        let output: Buffer | undefined;
        const code = codeOf(() => {
          output = new StreamDecoder({ repeatPages: 8 }).push(bad, shelf.bodies(bad));
        });
        if (code === 'none') expect(output?.equals(stream)).toBe(true);
        else expect(code).toMatch(/^(STREAM|CODEC)_/);
      }),
      { numRuns: 400 },
    );
  });
});

test('both ends of a window hold the same bodies, whatever its size', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 9 }), fc.array(fc.nat(12), { maxLength: 60 }), (size, seeds) => {
      const sent = new SentWindow(size);
      const repeats = new RepeatWindow(size);
      const out = Buffer.alloc(PAGE_BYTES);
      for (const seed of seeds) {
        const page = noisePage(2 * seed + 1);
        const back = sent.find(page, 0, crc32(page));
        if (back > 0) {
          expect(repeats.copy(back, out, 0)).toBe(true);
          expect(out.equals(page)).toBe(true);
        } else {
          sent.remember(page, 0, crc32(page));
          repeats.add(page, 0);
        }
      }
      for (const back of [0, -1, size + 1, Number.NaN]) expect(repeats.copy(back, out, 0)).toBe(false);
    }),
  );
});

describe('frames that another thread packs', () => {
  test('come in their place, and decode to the same bytes', async () => {
    let later = 0;
    await fc.assert(
      fc.asyncProperty(
        migrationStream,
        chunkSizes,
        fc.nat(3),
        fc.nat(1000),
        async (stream, sizes, window, seed) => {
          const emitted: (EncodedFrame | Promise<EncodedFrame>)[] = [];
          let turn = seed;
          const encoder: StreamEncoder = new StreamEncoder(
            {
              codec: 'zstd',
              frameRawBytes: 128 * 1024,
              background: {
                packer: () => {
                  turn += 1;
                  encoder.tune(turn % 4);
                  return turn % 5 === 0 ? undefined : packLater;
                },
                emit: (frame) => emitted.push(frame),
              },
            },
            (frame) => emitted.push(frame),
          );
          encoder.useContent(undefined, window);
          // a stretch without repetition before and after, so that there is something to pack
          const head = new StreamWriter().fileHeader().sectionStart(RAM_ID);
          head
            .memSize([{ name: 'pc.ram', lengthBytes: 400 * PAGE_BYTES }])
            .eos()
            .footer(RAM_ID)
            .sectionPart(RAM_ID);
          for (let page = 0; page < 200; page++)
            head.dataPage(page, noisePage(page >> 1), page === 0 ? 'pc.ram' : undefined);
          head.eos().footer(RAM_ID);
          const all = Buffer.concat([head.take(), stream.subarray(8)]);
          for (const chunk of chunksOf(all, sizes)) {
            const own = Buffer.from(chunk);
            encoder.push(own);
            own.fill(0x5a);
          }
          encoder.end();
          const decoder = new StreamDecoder({ repeatPages: window });
          const frames = await Promise.all(emitted.map((frame) => Promise.resolve(frame)));
          later += emitted.filter((frame) => frame instanceof Promise).length;
          const output = frames.map(({ payload }) => Buffer.from(decoder.push(payload)));
          expect(Buffer.concat(output).equals(all)).toBe(true);
          const { memory, device, frames: count } = encoder.stats();
          expect(count).toBe(frames.length);
          expect(memory.bytesRaw + device.bytesRaw).toBe(all.length);
        },
      ),
      { numRuns: 30 },
    );
    expect(later).toBeGreaterThan(0);
  });

  test('a packer that fails is heard through the frame', async () => {
    const emitted: Promise<EncodedFrame>[] = [];
    const packer = () => Promise.reject(new Error('no thread'));
    const encoder = new StreamEncoder(
      { background: { packer: () => packer, emit: (frame) => emitted.push(frame) } },
      () => {},
    );
    const writer = new StreamWriter().fileHeader().sectionStart(RAM_ID);
    writer
      .memSize([{ name: 'pc.ram', lengthBytes: 100 * PAGE_BYTES }])
      .eos()
      .footer(RAM_ID)
      .sectionPart(RAM_ID);
    for (let page = 0; page < 100; page++)
      writer.dataPage(page, noisePage(page), page === 0 ? 'pc.ram' : undefined);
    encoder.push(writer.take());
    expect(emitted.length).toBeGreaterThan(0);
    for (const frame of emitted) await expect(frame).rejects.toThrow('no thread');
  });
});

/** Takes a while, and not always the same. */
async function packLater(bodies: Buffer, level: number): Promise<Buffer> {
  for (let turns = (bodies[0] ?? 0) % 7; turns > 0; turns--)
    await new Promise((resolve) => setImmediate(resolve));
  return zstdPackLater(bodies, level);
}
