import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  chunkSizes,
  chunksOf,
  codeOf,
  migrationStream,
  noisePage,
  RAM_ID,
  ramStream,
  recode,
} from '../../../test/kit/qemuStream.ts';
import { PACKAGED_MAX_BYTES, PAGE_BYTES, StreamEncoder } from './index.ts';
import { StreamWriter } from './writer.ts';

const codecs = ['raw', 'rle', 'zstd'] as const;

describe('what is encoded decodes to the same bytes', () => {
  test.each(codecs)('main stream, any chunks, any flushes: %s', (codec) => {
    fc.assert(
      fc.property(
        migrationStream,
        chunkSizes,
        fc.nat(4),
        fc.constantFrom(8192, 65_536),
        (stream, sizes, every, frameRawBytes) => {
          const { output, encoder, frames } = recode(chunksOf(stream, sizes), {
            codec,
            frameRawBytes,
            ...(every === 0 ? {} : { flushEvery: every }),
          });
          expect(output.equals(stream)).toBe(true);
          const { memory, device, restReason } = encoder.stats();
          expect(memory.bytesRaw + device.bytesRaw).toBe(stream.length);
          expect(memory.bytesEncoded + device.bytesEncoded).toBe(
            frames.reduce((sum, f) => sum + f.payload.length, 0),
          );
          expect(['devices', 'eof']).toContain(restReason);
        },
      ),
      { numRuns: 60 },
    );
  });

  test.each(codecs)('preempt channel: %s', (codec) => {
    fc.assert(
      fc.property(ramStream, chunkSizes, (stream, sizes) => {
        const { output, encoder } = recode(chunksOf(stream, sizes), {
          codec,
          mode: 'ram',
          frameRawBytes: 8192,
        });
        expect(output.equals(stream)).toBe(true);
        expect(encoder.stats().stage).toBe('live');
      }),
      { numRuns: 60 },
    );
  });

  test('cut short anywhere', () => {
    fc.assert(
      fc.property(
        migrationStream,
        fc.double({ min: 0, max: 1, noNaN: true }),
        chunkSizes,
        (stream, part, sizes) => {
          const cut = stream.subarray(0, Math.floor(stream.length * part));
          expect(recode(chunksOf(cut, sizes), { codec: 'rle' }).output.equals(cut)).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });

  test('with flipped bytes: passed on, or a coded error', () => {
    fc.assert(
      fc.property(
        migrationStream,
        fc.array(fc.tuple(fc.nat(400), fc.nat(255)), { maxLength: 4 }),
        (stream, flips) => {
          const bad = Buffer.from(stream);
          for (const [at, value] of flips) if (at < bad.length) bad[at] = value;
          const code = codeOf(() => expect(recode([bad], { codec: 'rle' }).output.equals(bad)).toBe(true));
          expect(['none', 'STREAM_PACKAGED_TOO_LARGE']).toContain(code);
        },
      ),
      { numRuns: 150 },
    );
  });

  test('garbage: passed on as it is', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 5000 }),
        fc.constantFrom('main' as const, 'ram' as const),
        chunkSizes,
        (data, mode, sizes) => {
          const stream = Buffer.from(data);
          expect(recode(chunksOf(stream, sizes), { mode }).output.equals(stream)).toBe(true);
        },
      ),
    );
  });
});

/** A post-copy migration as QEMU 7.2 writes it: one zero page, three data pages (one blank, one again after the switch). */
function postcopy(): Buffer {
  return new StreamWriter()
    .fileHeader()
    .configuration('pc-i440fx-7.2')
    .command(1)
    .command(2, Buffer.from([0, 0, 0, 1]))
    .command(3, Buffer.alloc(16))
    .sectionStart(RAM_ID)
    .memSize([{ name: 'pc.ram', lengthBytes: 8 * PAGE_BYTES }])
    .eos()
    .footer(RAM_ID)
    .sectionPart(RAM_ID)
    .zeroPage(0, 'pc.ram')
    .dataPage(1, noisePage(1))
    .dataPage(2, Buffer.alloc(PAGE_BYTES))
    .eos()
    .footer(RAM_ID)
    .command(6, Buffer.alloc(30))
    .packaged(Buffer.alloc(100_000, 'pci '))
    .sectionPart(RAM_ID)
    .dataPage(1, noisePage(2), 'pc.ram')
    .dataPage(7, noisePage(3))
    .eos()
    .footer(RAM_ID)
    .sectionEnd(RAM_ID)
    .eos()
    .footer(RAM_ID)
    .bytes([0])
    .take();
}

describe('what the mover is told', () => {
  test('hooks come in stream order, before the frame with their thing, whatever the chunks', () => {
    for (const sizes of [[], [1], [7], [4096]]) {
      const seen: string[] = [];
      const encoder = new StreamEncoder(
        {
          strict: true,
          onRamBlocks: (blocks) =>
            seen.push(`blocks ${blocks.map((b) => `${b.name}:${b.lengthBytes}`).join()}`),
          onCommand: (id, data) => seen.push(`command ${id}/${data.length}`),
          onPackagedStart: (lengthBytes) => {
            seen.push(`packaged ${lengthBytes}`);
            encoder.mark();
          },
          onSectionEnd: (type) => seen.push(type),
          onRest: (reason) => seen.push(`rest ${reason}`),
        },
        (frame) => seen.push(`${frame.kind} ${frame.rawBytes}: ${frame.zeroPages}+${frame.dataPages}`),
      );
      for (const chunk of chunksOf(postcopy(), sizes)) encoder.push(chunk);
      encoder.end();
      expect(seen).toEqual([
        'command 1/0',
        'command 2/4',
        'command 3/16',
        'device 61: 0+0',
        'blocks pc.ram:32768',
        'start',
        'part',
        'memory 8295: 2+1',
        'command 6/30',
        'device 35: 0+0',
        'packaged 100000',
        'device 100009: 0+0',
        'part',
        'end',
        'memory 8251: 0+2',
        'rest eof',
        'device 1: 0+0',
      ]);
      expect(encoder.stats()).toMatchObject({
        pagesZero: 2,
        pagesData: 3,
        pagesRepeated: 1,
        pagesSeen: 4,
        pagesTotal: 8,
        stage: 'rest',
        restReason: 'eof',
        frames: 6,
        sinceMark: { pagesZero: 0, pagesData: 2, pagesRepeated: 1, pagesSeen: 1 },
      });
    }
  });

  test('the package is announced as soon as its length is known, and flush keeps it whole', () => {
    const stream = new StreamWriter().fileHeader().packaged(Buffer.alloc(50_000, 1)).take();
    const seen: string[] = [];
    const encoder = new StreamEncoder({ onPackagedStart: () => seen.push('start') }, (f) =>
      seen.push(`${f.rawBytes}`),
    );
    encoder.push(stream.subarray(0, 17));
    expect(seen).toEqual(['8', 'start']);
    encoder.push(stream.subarray(17, 30_000));
    encoder.flush();
    expect(seen).toEqual(['8', 'start']);
    encoder.push(stream.subarray(30_000));
    expect(seen).toEqual(['8', 'start', '50009']);
  });

  test('QEMU completing as pre-copy is seen', () => {
    const stream = new StreamWriter()
      .fileHeader()
      .sectionStart(RAM_ID)
      .memSize([{ name: 'm', lengthBytes: 4096 }])
      .eos();
    stream.sectionEnd(RAM_ID).zeroPage(0, 'm').eos().footer(RAM_ID).bytes([4, 1, 2, 3]);
    const { encoder } = recode([stream.take()]);
    expect(encoder.stats()).toMatchObject({
      stage: 'rest',
      restReason: 'devices',
      pagesSeen: 1,
      pagesTotal: 1,
    });
  });

  test('pages not whole yet wait; flush emits the rest', () => {
    const stream = new StreamWriter().dataPage(3, noisePage(3), 'b').dataPage(4, noisePage(4)).take();
    const raw: number[] = [];
    const encoder = new StreamEncoder({ mode: 'ram' }, (frame) => raw.push(frame.rawBytes));
    encoder.push(stream.subarray(0, 5000));
    encoder.flush();
    encoder.flush();
    expect(raw).toEqual([4106]);
    encoder.push(stream.subarray(5000));
    encoder.end();
    encoder.end();
    expect(raw).toEqual([4106, 4104]);
    expect(codeOf(() => encoder.push(stream))).toBe('STREAM_ENDED');
  });
});

describe('what is not understood', () => {
  const start = (): StreamWriter => new StreamWriter().fileHeader().configuration('pc');
  const ram = (): StreamWriter => start().sectionStart(RAM_ID);
  const blocks = (): StreamWriter => ram().memSize([{ name: 'pc.ram', lengthBytes: 4096 }]);
  const cases: [string, Buffer][] = [
    ['file version', new StreamWriter().fileHeader(2).take()],
    ['magic', Buffer.from('NOT A STREAM')],
    ['section type', start().bytes([0x33]).take()],
    ['another iterable section', start().sectionStart(1, 'dirty-bitmap', 1).bytes(Buffer.alloc(50)).take()],
    ['RAM version', start().sectionStart(RAM_ID, 'ram', 3).take()],
    ['device section before RAM', start().bytes([4]).take()],
    ['part of another section', blocks().eos().sectionPart(9).take()],
    ['footer without a section', start().footer(RAM_ID).take()],
    ['footer of another section', blocks().eos().footer(9).take()],
    ['RAM flag', blocks().u64(0x80n).take()],
    ['RAM flags together', blocks().u64(0x0an).take()],
    ['block sizes that do not add up', ram().u64(8196n).name('a').u64(4096n).name('b').u64(8192n).take()],
    ['block without a name', ram().u64(8196n).name('a').u64(4096n).name('').u64(1n).take()],
    ['no RAM', ram().u64(4n).take()],
    ['sizes twice', blocks().eos().sectionPart(RAM_ID).u64(4100n).take()],
    ['machine name length', new StreamWriter().fileHeader().bytes([7]).u32(1025).take()],
    [
      'page size',
      start()
        .subsection('configuration/target-page-bits', Buffer.from([0, 0, 0, 14]))
        .take(),
    ],
    ['configuration subsection', start().subsection('configuration/x', Buffer.alloc(4)).take()],
    [
      'capabilities',
      start()
        .subsection('configuration/capabilities', Buffer.from([0, 0, 0, 65]))
        .take(),
    ],
    ['packed page length', blocks().compressedPage(0, Buffer.alloc(8193)).take()],
    ['PACKAGED length', start().command(7, Buffer.alloc(5)).take()],
  ];

  test.each(cases)('%s: passed on, or refused if strict', (_, head) => {
    const stream = Buffer.concat([head, Buffer.alloc(3000, 0x41)]);
    for (const sizes of [[], [1]]) {
      const { output, encoder } = recode(chunksOf(stream, sizes));
      expect(output.equals(stream)).toBe(true);
      expect(encoder.stats().restReason).toBe('unknown');
    }
    expect(codeOf(() => recode([stream], { strict: true }))).toBe('STREAM_UNKNOWN');
  });

  test('subsections of the configuration are understood', () => {
    const stream = start()
      .subsection('configuration/target-page-bits', Buffer.from([0, 0, 0, 12]))
      .subsection('configuration/capabilities', Buffer.from('\0\0\0\x02\x03abc\x04defg', 'latin1'))
      .subsection('configuration/uuid', Buffer.alloc(16))
      .command(1)
      .take();
    for (const sizes of [[], [1], [9]]) {
      const commands: number[] = [];
      const { output } = recode(chunksOf(stream, sizes), {
        strict: true,
        onCommand: (id) => commands.push(id),
      });
      expect(output.equals(stream)).toBe(true);
      expect(commands).toEqual([1]);
    }
  });

  test('a device package above the limit is refused before it is buffered', () => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(PACKAGED_MAX_BYTES + 1);
    expect(codeOf(() => recode([start().command(7, length).take()]))).toBe('STREAM_PACKAGED_TOO_LARGE');
  });
});

test('the usual stream costs next to nothing but its bodies', () => {
  const writer = new StreamWriter();
  writer.zeroPage(0, 'pc.ram');
  for (let page = 1; page < 2000; page++) writer.zeroPage(page);
  for (let page = 2000; page < 2050; page++) writer.dataPage(page, noisePage(page));
  const stream = writer.take();
  for (const codec of codecs) {
    const { frames, output } = recode([stream], { mode: 'ram', codec, frameRawBytes: 1024 * 1024 });
    expect(output.equals(stream)).toBe(true);
    expect(frames.length).toBe(1);
    const overhead = (frames[0]?.payload.length ?? 0) - 50 * (PAGE_BYTES + (codec === 'rle' ? 2 : 0));
    expect(overhead).toBeLessThan(50);
  }
});
