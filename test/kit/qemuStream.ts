/** QEMU migration streams for tests: fast-check arbitraries, and pushing them through encoder and decoder. */
import fc from 'fast-check';
import { errorCode } from '../../src/base/errors.ts';
import {
  type EncodedFrame,
  PAGE_BYTES,
  StreamDecoder,
  StreamEncoder,
  type StreamEncoderOptions,
} from '../../src/wire/qemu-stream/index.ts';
import { StreamWriter } from '../../src/wire/qemu-stream/writer.ts';

export const RAM_ID = 2;

/** Page bodies of every kind that the codecs treat differently. */
export const pageBody: fc.Arbitrary<Buffer> = fc.oneof(
  fc.constant(Buffer.alloc(PAGE_BYTES)),
  fc.integer({ min: 1, max: 255 }).map((byte) => Buffer.alloc(PAGE_BYTES, byte)),
  fc.uint8Array({ minLength: 1, maxLength: 40 }).map((text) => Buffer.alloc(PAGE_BYTES, Buffer.from(text))),
  fc.nat().map(noisePage),
  fc.tuple(fc.nat(), fc.nat(PAGE_BYTES)).map(([seed, from]) => noisePage(seed).fill(0, from)),
  // All zero but for one byte anywhere.
  fc.nat(PAGE_BYTES - 1).map((at) => Buffer.alloc(PAGE_BYTES).fill(1, at, at + 1)),
);

/** A page without any repetition, the same for the same seed. */
export function noisePage(seed: number): Buffer {
  const page = Buffer.alloc(PAGE_BYTES);
  let state = (seed | 1) >>> 0;
  for (let i = 0; i < PAGE_BYTES; i += 4) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    page.writeUInt32LE((state ^ (state >>> 15)) >>> 0, i);
  }
  return page;
}

type Write = (writer: StreamWriter) => void;

const blockName = fc.option(fc.constantFrom('pc.ram', 'vga.vram', '/rom@etc/acpi/tables', 'x'.repeat(255)), {
  nil: undefined,
});
const pageNumber = fc.oneof(
  fc.nat(5000),
  fc.nat(2 ** 20),
  fc.constantFrom(2 ** 52 - 1, 2 ** 52 - 2, 2 ** 32),
);

const ramRecord: fc.Arbitrary<Write> = fc.oneof(
  // A stretch of neighbours, as most of a stream is.
  {
    weight: 6,
    arbitrary: fc
      .tuple(fc.nat(100_000), fc.array(fc.option(pageBody, { nil: undefined }), { maxLength: 12 }), blockName)
      .map(([first, bodies, name]): Write => {
        return (writer) => {
          for (const [i, body] of bodies.entries()) {
            const block = i === 0 ? name : undefined;
            if (body) writer.dataPage(first + i, body, block);
            else writer.zeroPage(first + i, block);
          }
        };
      }),
  },
  {
    weight: 2,
    arbitrary: fc.tuple(pageNumber, pageBody, blockName).map(
      ([page, body, name]): Write =>
        (w) =>
          w.dataPage(page, body, name),
    ),
  },
  fc.tuple(pageNumber, fc.integer({ min: 0, max: 255 }), blockName).map(
    ([page, fill, name]): Write =>
      (w) =>
        w.zeroPage(page, name, fill),
  ),
  fc.tuple(pageNumber, fc.uint8Array({ maxLength: 300 }), blockName).map(
    ([page, data, name]): Write =>
      (w) =>
        w.xbzrlePage(page, Buffer.from(data), name),
  ),
  fc.tuple(pageNumber, fc.uint8Array({ maxLength: 300 }), blockName).map(
    ([page, data, name]): Write =>
      (w) =>
        w.compressedPage(page, Buffer.from(data), name),
  ),
  fc.constant<Write>((w) => w.multifdFlush()),
);

const ramRecords = fc.array(ramRecord, { maxLength: 12 });

const command: fc.Arbitrary<Write> = fc
  .tuple(fc.constantFrom(1, 2, 3, 4, 5, 6, 9, 10, 11, 77), fc.uint8Array({ maxLength: 400 }))
  .map(
    ([id, data]): Write =>
      (w) =>
        w.command(id, Buffer.from(data)),
  );

const blob = fc.oneof(
  fc.uint8Array({ maxLength: 2000 }).map((data) => Buffer.from(data)),
  fc.nat(300_000).map((length) => Buffer.alloc(length, 'device state \0\0\0\0')),
);

/** Streams as QEMU writes them: header, set-up, rounds, and either a device package and more pages, or device sections. */
export const migrationStream: fc.Arbitrary<Buffer> = fc
  .record({
    machine: fc.option(fc.constantFrom('pc-i440fx-7.2', 'pc-q35-10.0', ''), { nil: undefined }),
    subsection: fc.boolean(),
    hugePageBytes: fc.option(fc.constant(2 * 1024 * 1024), { nil: undefined }),
    footers: fc.boolean(),
    early: fc.array(command, { maxLength: 4 }),
    rounds: fc.array(ramRecords, { maxLength: 4 }),
    late: fc.array(command, { maxLength: 4 }),
    blob: fc.option(blob, { nil: undefined }),
    postcopy: fc.array(ramRecords, { maxLength: 3 }),
    devices: fc.uint8Array({ maxLength: 3000 }),
  })
  .map((parts) => {
    const writer = new StreamWriter().fileHeader();
    if (parts.machine !== undefined) writer.configuration(parts.machine);
    if (parts.subsection) writer.subsection('configuration/uuid', Buffer.alloc(16, 9));
    for (const write of parts.early) write(writer);
    const close = (): void => {
      writer.eos();
      if (parts.footers) writer.footer(RAM_ID);
    };
    writer.sectionStart(RAM_ID).memSize([
      { name: 'pc.ram', lengthBytes: 64 * 1024 * 1024, hugePageBytes: parts.hugePageBytes },
      { name: 'vga.vram', lengthBytes: 16 * 1024 * 1024 },
      { name: '/rom@etc/acpi/tables', lengthBytes: 131072, hugePageBytes: parts.hugePageBytes },
    ]);
    close();
    for (const round of parts.rounds) {
      writer.sectionPart(RAM_ID);
      for (const write of round) write(writer);
      close();
    }
    for (const write of parts.late) write(writer);
    if (parts.blob) {
      writer.packaged(parts.blob);
      for (const round of parts.postcopy) {
        writer.sectionPart(RAM_ID);
        for (const write of round) write(writer);
        close();
      }
    }
    writer.sectionEnd(RAM_ID);
    close();
    if (parts.blob) writer.bytes([0]);
    else writer.bytes([4]).bytes(Buffer.from(parts.devices));
    return writer.take();
  });

/** The second channel of postcopy-preempt. */
export const ramStream: fc.Arbitrary<Buffer> = fc.tuple(ramRecords, ramRecords).map(([first, second]) => {
  const writer = new StreamWriter();
  for (const write of first) write(writer);
  writer.eos();
  for (const write of second) write(writer);
  return writer.eos().take();
});

/** Cuts a buffer at random places; `sizes` is reused in a circle, 0 gives empty chunks now and then. */
export function* chunksOf(data: Buffer, sizes: readonly number[]): Generator<Buffer> {
  let pos = 0;
  for (let i = 0; pos < data.length; i++) {
    const size = sizes.length === 0 ? data.length : (sizes[i % sizes.length] ?? 1);
    const end = Math.min(data.length, pos + (size === 0 && i % 7 !== 0 ? 1 : size));
    yield data.subarray(pos, end);
    pos = end;
  }
}

/** Chunk sizes from single bytes to whole sockets full. */
export const chunkSizes = fc.array(
  fc.oneof(fc.nat(20), fc.integer({ min: 4000, max: 4200 }), fc.integer({ min: 1, max: 70_000 })),
  { minLength: 1, maxLength: 12 },
);

export interface Coded {
  readonly frames: EncodedFrame[];
  readonly encoder: StreamEncoder;
  readonly output: Buffer;
  readonly decoder: StreamDecoder;
}

/**
 * Encodes the chunks and decodes the frames. Chunks are given in a buffer that is overwritten after each call, as
 * a socket's read buffer is. `flushEvery` chunks the encoder is flushed.
 */
export function recode(
  chunks: Iterable<Buffer>,
  options: StreamEncoderOptions & { flushEvery?: number } = {},
): Coded {
  const frames: EncodedFrame[] = [];
  const encoder = new StreamEncoder(options, (frame) => frames.push(frame));
  let count = 0;
  for (const chunk of chunks) {
    const own = Buffer.from(chunk);
    encoder.push(own);
    own.fill(0xa5);
    if (options.flushEvery !== undefined && ++count % options.flushEvery === 0) encoder.flush();
  }
  encoder.end();
  const decoder = new StreamDecoder();
  const output = Buffer.concat(frames.map((frame) => decoder.push(frame.payload)));
  return { frames, encoder, output, decoder };
}

/** The code of what `run` throws, or `none`. */
export function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return errorCode(error);
  }
  return 'none';
}
