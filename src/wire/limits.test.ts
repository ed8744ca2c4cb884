import { expect, test } from 'vitest';
import { errorCode } from '../base/errors.ts';
import { CODEC_RAW } from './codec.ts';
import * as disk from './disk/index.ts';
import { MAX_CLOSE_CODE_BYTES, MAX_ROUTE_BYTES, MAX_SITE_ID_BYTES } from './link/constants.ts';
import { encodeControl } from './link/encode.ts';
import { encodePreamble } from './link/preamble.ts';
import * as nbd from './nbd/constants.ts';
import { decodeInfoRequest, decodeMetaContextRequest, decodeStatusChunk } from './nbd/decode.ts';
import { encodeInfoRequest, encodeMetaContextRequest } from './nbd/encode.ts';
import { StreamEncoder } from './qemu-stream/encoder.ts';
import { FRAME_RAW_MAX_BYTES, FRAME_RAW_MIN_BYTES, RAM_BLOCKS_MAX } from './qemu-stream/constants.ts';
import { StreamWriter } from './qemu-stream/writer.ts';
import { QMP_MAX_LINE_BYTES } from './qmp/constants.ts';
import { QmpDecoder } from './qmp/decode.ts';

/** Limits that the rooms' own tests do not cross; docs/LIMITS.md links each test to its limits. */
function codeOf(act: () => unknown): string {
  try {
    act();
    return 'none';
  } catch (error) {
    return errorCode(error);
  }
}

const FILE_BYTES = 2 ** 30;

test('disk: sectors in a frame of zeros, in a metadata frame, and runs in a syn', () => {
  const zeros = (count: number): Buffer => {
    const frame = disk.encodeData(0, 0, { first: 0, count: 1 }, Buffer.alloc(disk.SECTOR_BYTES), CODEC_RAW);
    frame.writeUInt32BE(count, 12);
    return frame;
  };
  expect(codeOf(() => disk.decodeData(zeros(disk.MAX_ZERO_SECTORS), FILE_BYTES))).toBe('none');
  expect(codeOf(() => disk.decodeData(zeros(disk.MAX_ZERO_SECTORS + 1), FILE_BYTES))).toBe(
    'DISK_OUT_OF_RANGE',
  );
  const sectors = disk.MAX_METADATA_EXTENT_BYTES / disk.SECTOR_BYTES;
  const metadata = (count: number): Buffer =>
    disk.encodeData(0, 0, { first: 0, count }, Buffer.alloc(count * disk.SECTOR_BYTES, 1), CODEC_RAW);
  const decode = (frame: Buffer): unknown =>
    disk.decodeData(frame, FILE_BYTES, disk.MAX_METADATA_EXTENT_BYTES);
  expect(codeOf(() => decode(metadata(sectors)))).toBe('none');
  expect(codeOf(() => decode(metadata(sectors + 1)))).toBe('DISK_OUT_OF_RANGE');
  const syn = (count: number): Buffer =>
    disk.encodeSyn(
      0,
      Array.from({ length: count }, (_, i) => ({ first: 2 * i, count: 1 })),
    );
  expect(codeOf(() => disk.decodeSyn(syn(disk.MAX_SYN_RUNS), 2 ** 20))).toBe('none');
  expect(codeOf(() => disk.decodeSyn(syn(disk.MAX_SYN_RUNS + 1), 2 ** 20))).toBe('DISK_FRAME_INVALID');
});

test('NBD: meta context queries, information requests, strings and extents', () => {
  const queries = (count: number): Buffer =>
    encodeMetaContextRequest({ name: '', queries: Array.from({ length: count }, () => 'a:b') });
  expect(codeOf(() => decodeMetaContextRequest(queries(nbd.NBD_MAX_META_QUERIES)))).toBe('none');
  expect(codeOf(() => decodeMetaContextRequest(queries(nbd.NBD_MAX_META_QUERIES + 1)))).toBe('NBD_TOO_LARGE');
  const infos = (count: number, name = ''): Buffer =>
    encodeInfoRequest({ name, requests: Array.from({ length: count }, () => 0) });
  expect(codeOf(() => decodeInfoRequest(infos(nbd.NBD_MAX_INFO_REQUESTS)))).toBe('none');
  expect(codeOf(() => decodeInfoRequest(infos(nbd.NBD_MAX_INFO_REQUESTS + 1)))).toBe('NBD_TOO_LARGE');
  expect(codeOf(() => decodeInfoRequest(infos(0, 'x'.repeat(nbd.NBD_MAX_STRING_BYTES))))).toBe('none');
  expect(codeOf(() => decodeInfoRequest(infos(0, 'x'.repeat(nbd.NBD_MAX_STRING_BYTES + 1))))).toBe(
    'NBD_TOO_LARGE',
  );
  const extents = Buffer.alloc(4 + 8 * (nbd.NBD_MAX_CHUNK_EXTENTS + 1), 1);
  expect(codeOf(() => decodeStatusChunk(extents))).toBe('NBD_TOO_LARGE');
});

test('link: names and codes in frames', () => {
  expect(codeOf(() => encodePreamble('r'.repeat(MAX_ROUTE_BYTES)))).toBe('none');
  expect(codeOf(() => encodePreamble('r'.repeat(MAX_ROUTE_BYTES + 1)))).toBe('LINK_BAD_ARGUMENT');
  const hello = (siteId: string): Buffer =>
    encodeControl({
      kind: 'hello',
      version: 1,
      lane: 'bulk',
      instance: '11'.repeat(16),
      peerInstance: undefined,
      receivedSeq: 0,
      receivedOffsetBytes: 0,
      sessionId: 's',
      siteId,
    });
  expect(codeOf(() => hello('s'.repeat(MAX_SITE_ID_BYTES)))).toBe('none');
  expect(codeOf(() => hello('s'.repeat(MAX_SITE_ID_BYTES + 1)))).toBe('LINK_BAD_ARGUMENT');
  const close = (code: string): Buffer => encodeControl({ kind: 'close', reason: 2, code, text: '' });
  expect(codeOf(() => close('C'.repeat(MAX_CLOSE_CODE_BYTES)))).toBe('none');
  expect(codeOf(() => close('C'.repeat(MAX_CLOSE_CODE_BYTES + 1)))).toBe('LINK_BAD_ARGUMENT');
});

test('stream: RAM blocks, and the sizes of frames that may be asked for', () => {
  const stream = (count: number): Buffer =>
    new StreamWriter()
      .fileHeader()
      .configuration('pc')
      .sectionStart(2)
      .memSize(Array.from({ length: count }, (_, i) => ({ name: `b${i}`, lengthBytes: 4096 })))
      .eos()
      .take();
  for (const [count, reason] of [
    [RAM_BLOCKS_MAX, undefined],
    [RAM_BLOCKS_MAX + 1, 'unknown'],
  ] as const) {
    const encoder = new StreamEncoder({ mode: 'main' }, () => {});
    encoder.push(stream(count));
    expect(encoder.stats().restReason).toBe(reason);
  }
  for (const [asked, least, most] of [
    [1, FRAME_RAW_MIN_BYTES, FRAME_RAW_MIN_BYTES + 8192],
    [2 ** 30, FRAME_RAW_MAX_BYTES, FRAME_RAW_MAX_BYTES + 8192],
  ] as const) {
    const frames: number[] = [];
    const encoder = new StreamEncoder({ mode: 'ram', frameRawBytes: asked }, (f) => frames.push(f.rawBytes));
    const writer = new StreamWriter();
    for (let page = 0; page < 600; page++)
      writer.dataPage(page, Buffer.alloc(4096, 7), page === 0 ? 'b' : undefined);
    encoder.push(writer.take());
    encoder.end();
    expect(frames[0]).toBeGreaterThanOrEqual(least);
    expect(frames[0]).toBeLessThan(most);
  }
});

test('QMP: the longest line', () => {
  const decoder = new QmpDecoder(() => {});
  decoder.push(Buffer.alloc(QMP_MAX_LINE_BYTES, 0x20));
  expect(codeOf(() => decoder.push(Buffer.from(' ')))).toBe('QMP_LINE_TOO_LONG');
});
