import { expect, test } from 'vitest';
import { noisePage, RAM_ID } from '../../../test/kit/qemuStream.ts';
import { errorCode } from '../../base/errors.ts';
import { PAGE_BYTES } from './constants.ts';
import { StreamDecoder } from './decoder.ts';
import { StreamEncoder } from './encoder.ts';
import { NOT_HELD_PAGES } from './held.ts';
import { Holding } from './holding.ts';
import { StreamWriter } from './writer.ts';

const RAM = 'pc.ram';
const ROM = 'pc.bios';
const FIRST = NOT_HELD_PAGES;

/** A stream of one section of RAM with these records, through an encoder and a decoder that holds pages back. */
function through(records: (writer: StreamWriter) => void): { holding: Holding; out: Buffer } {
  const writer = new StreamWriter().fileHeader().sectionStart(RAM_ID);
  writer.memSize([
    { name: RAM, lengthBytes: 2 * NOT_HELD_PAGES * PAGE_BYTES },
    { name: ROM, lengthBytes: 8 * PAGE_BYTES },
  ]);
  writer.eos().footer(RAM_ID).sectionPart(RAM_ID);
  records(writer);
  const holding = new Holding();
  const decoder = new StreamDecoder({ holding });
  const out: Buffer[] = [];
  // in small frames: the blocks are known when the pages come
  const encoder = new StreamEncoder({ codec: 'raw' }, ({ payload }) => out.push(decoder.push(payload)));
  const stream = writer.eos().footer(RAM_ID).take();
  const head = stream.indexOf(Buffer.from([0x7e])) + 5;
  for (const part of [stream.subarray(0, head), stream.subarray(head)]) {
    encoder.push(part);
    encoder.flush();
  }
  return { holding, out: Buffer.concat(out) };
}

test('zero pages are held, but in the first of the memory, and of the other blocks', () => {
  const { holding } = through((writer) =>
    writer
      .zeroPage(FIRST - 1, RAM)
      .zeroPage(FIRST)
      .dataPage(FIRST + 1, noisePage(1))
      .zeroPage(3, ROM),
  );
  expect(holding.held.held).toBe(1);
  const claims = [FIRST - 1, FIRST, FIRST, FIRST + 1, FIRST + 2].map((page) => holding.held.claim(RAM, page));
  expect(claims).toEqual(['given', -1, 'given', 'given', 'source']);
  expect(holding.held.claim(ROM, 3)).toBe('source');
});

test('a page in a form of QEMU’s own is given, whatever was held of it', () => {
  const { holding } = through((writer) =>
    writer
      .zeroPage(FIRST, RAM)
      .xbzrlePage(FIRST, Buffer.from('what changed'), RAM)
      .zeroPage(FIRST + 1),
  );
  expect(holding.held.claim(RAM, FIRST)).toBe('given');
  expect(holding.held.claim(RAM, FIRST + 1)).toBe(-1);
});

test('one that relies on the name of a page that is held is refused', () => {
  let code = 'none';
  try {
    through((writer) =>
      writer.dataPage(1, noisePage(1), ROM).zeroPage(FIRST, RAM).xbzrlePage(FIRST, Buffer.from('more')),
    );
  } catch (error) {
    code = errorCode(error);
  }
  expect(code).toBe('STREAM_FRAME_CORRUPT');
});
