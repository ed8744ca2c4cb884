import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { errorCode } from '../../src/base/errors.ts';
import type { Lane } from '../../src/link/types.ts';
import { CODEC_RAW } from '../../src/wire/codec.ts';
import * as disk from '../../src/wire/disk/index.ts';
import { type Pair, diskPair, mixedContent, tempFolder } from './disk-kit.ts';
import { seeded } from './disk-link.ts';

const SECTOR = 4096;
const content = mixedContent(200 * SECTOR, seeded(11));

async function codeOf(action: Promise<void>): Promise<string> {
  try {
    await action;
    return 'none';
  } catch (error) {
    return errorCode(error);
  }
}

const data = (first: number, count: number, pull = 0): Buffer =>
  disk.encodeData(0, pull, { first, count }, Buffer.alloc(count * SECTOR, 1), CODEC_RAW);

async function started(folder: string): Promise<Pair> {
  const path = join(folder, 'source');
  await writeFile(path, content);
  const pair = await diskPair(folder, path, { source: { format: 'raw' } });
  await pair.source.freeze();
  await pair.target.frozen;
  await pair.up.drained('urgent');
  return pair;
}

async function finish(pair: Pair): Promise<void> {
  pair.source.startPush();
  await pair.target.complete;
  await pair.source.complete;
  expect((await readFile(pair.targetPath)).equals(content)).toBe(true);
}

describe('a hostile or confused peer', () => {
  it('gets coded refusals at the target, and the transfer loses nothing', async () => {
    await using folder = await tempFolder();
    await using pair = await started(folder.path);
    const { target } = pair;
    const tell = (type: number, message: Buffer, lane: Lane): Promise<string> =>
      codeOf(target.handle(type, message, lane));
    const freeze = disk.encodeFreeze(0, { fileSizeBytes: SECTOR, metadataSectors: 0, qcow2: false });
    expect(await tell(disk.DISK_FREEZE, freeze, 'urgent')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_METADATA, data(0, 1), 'urgent')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_PUSH, data(0, 1), 'urgent')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_PUSH, data(199, 2), 'bulk')).toBe('DISK_OUT_OF_RANGE');
    expect(await tell(disk.DISK_PUSH, data(0, 17), 'bulk')).toBe('DISK_OUT_OF_RANGE');
    expect(await tell(disk.DISK_PUSH, data(0, 1).subarray(0, 300), 'bulk')).toBe('DISK_FRAME_INVALID');
    expect(await tell(disk.DISK_PUSH, data(0, 1, 7), 'bulk')).toBe('DISK_UNSOLICITED');
    expect(await tell(disk.DISK_ANSWER, data(0, 1, 1), 'urgent')).toBe('DISK_UNSOLICITED');
    expect(await tell(disk.DISK_ANSWER, data(0, 1, 0), 'urgent')).toBe('DISK_UNSOLICITED');
    expect(await tell(disk.DISK_ANSWERED, disk.encodeAnswered(0, 9), 'urgent')).toBe('DISK_UNSOLICITED');
    expect(await tell(disk.DISK_COMPLETE, disk.encodeMark(0), 'urgent')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_READY, disk.encodeMark(0), 'urgent')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_END, disk.encodeMark(3), 'urgent')).toBe('DISK_ORDER');
    expect(await tell(90, disk.encodeMark(0), 'urgent')).toBe('DISK_ORDER');
    expect(target.stats().blocks).toMatchObject({ dirty: 200, pushed: 0, pulled: 0 });
    await finish(pair);
    expect(await tell(disk.DISK_PUSH, data(0, 1), 'bulk')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_END, disk.encodeMark(0), 'bulk')).toBe('DISK_ORDER');
  });

  it('gets coded refusals at the source, and the transfer loses nothing', async () => {
    await using folder = await tempFolder();
    await using pair = await started(folder.path);
    const tell = (type: number, message: Buffer, lane: Lane = 'urgent'): Promise<string> =>
      codeOf(pair.source.handle(type, message, lane));
    const pull = (first: number, count: number, disk_ = 0): Buffer =>
      disk.encodePull(disk_, { pull: 1, run: { first, count }, again: true });
    expect(await tell(disk.DISK_READY, disk.encodeMark(0))).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_COMPLETE, disk.encodeMark(0))).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_PUSH, data(0, 1), 'bulk')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_PULL, pull(0, 1), 'bulk')).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_PULL, pull(0, 1, 4))).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_PULL, pull(200, 1))).toBe('DISK_OUT_OF_RANGE');
    expect(await tell(disk.DISK_PULL, pull(0, 2 ** 32 - 1))).toBe('DISK_OUT_OF_RANGE');
    expect(await tell(disk.DISK_SYN, disk.encodeSyn(0, [{ first: 190, count: 11 }]))).toBe(
      'DISK_OUT_OF_RANGE',
    );
    expect(await tell(disk.DISK_SYN, Buffer.alloc(0))).toBe('DISK_FRAME_INVALID');
    expect(await tell(70, Buffer.from([9, 0, 0, 0]))).toBe('DISK_VERSION');
    expect(pair.source.stats().blocks.dirty).toBe(200);
    await finish(pair);
  });

  it('may send any garbage of any type, and is refused with a code', async () => {
    await using folder = await tempFolder();
    await using pair = await started(folder.path);
    const plausible = fc
      .uint8Array({ maxLength: 40 })
      .map((bytes) => Buffer.from([disk.DISK_VERSION, 0, ...bytes]));
    const garbage = fc.oneof(
      plausible,
      fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
    );
    const lanes = fc.constantFrom<Lane>('urgent', 'bulk');
    const types = fc.integer({ min: disk.DISK_TYPE_MIN, max: disk.DISK_TYPE_MAX });
    await fc.assert(
      fc.asyncProperty(types, garbage, lanes, async (type, message, lane) => {
        // Well-formed ends, syns and pulls are not garbage, and would be believed.
        if (type === disk.DISK_END || type === disk.DISK_SYN || type === disk.DISK_PULL) return;
        for (const side of [pair.target, pair.source]) {
          expect(await codeOf(side.handle(type, message, lane))).toMatch(/^(none|DISK_[A-Z_]+)$/);
        }
      }),
      { numRuns: 1000 },
    );
    expect(pair.target.stats().blocks.dirty).toBe(200);
    await finish(pair);
  });

  it('cannot send metadata twice, or more than announced', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, content);
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    const tell = (type: number, message: Buffer): Promise<string> =>
      codeOf(pair.target.handle(type, message, 'urgent'));
    expect(await tell(disk.DISK_METADATA, data(0, 1))).toBe('DISK_ORDER');
    const freeze = { fileSizeBytes: 20 * SECTOR, metadataSectors: 3, qcow2: true };
    expect(await tell(disk.DISK_FREEZE, disk.encodeFreeze(0, freeze))).toBe('none');
    expect(await tell(disk.DISK_PUSH, data(0, 1))).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_METADATA, data(4, 2))).toBe('none');
    expect(await tell(disk.DISK_METADATA, data(5, 1))).toBe('DISK_OVERLAP');
    expect(await tell(disk.DISK_METADATA, data(8, 2))).toBe('DISK_OVERLAP');
    const reading = pair.target.read(4 * SECTOR, 2);
    expect(await tell(disk.DISK_METADATA, data(0, 1))).toBe('none');
    await pair.target.frozen;
    expect(await reading).toEqual(Buffer.from([1, 1]));
    expect(pair.target.stats().blocks).toMatchObject({ metadata: 3, dirty: 17, total: 20 });
    // What the source's half is told without having frozen anything.
    expect(pair.up.log.map(({ type }) => type)).toEqual([disk.DISK_READY]);
    await pair.up.drained('urgent');
    expect(pair.up.refusals.map(errorCode)).toEqual(['DISK_ORDER']);
  });

  it('may send metadata ahead of the freeze; what is not sound or another one is pulled', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, content);
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    const { target } = pair;
    const tell = (type: number, message: Buffer): Promise<string> =>
      codeOf(target.handle(type, message, 'urgent'));
    const damaged = Buffer.from(data(4, 2));
    damaged.writeUInt8(damaged.readUInt8(30) ^ 1, 30);
    for (const message of [data(0, 2), damaged, data(8, 2)])
      expect(await tell(disk.DISK_AHEAD, message)).toBe('none');
    const freeze = { fileSizeBytes: content.length, metadataSectors: 8, qcow2: true };
    const asAhead = (first: number, crc: number): Buffer =>
      disk.encodeAsAhead(0, { run: { first, count: 2 }, crc });
    expect(await tell(disk.DISK_AS_AHEAD, asAhead(0, disk.crcOf(data(0, 2))))).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_FREEZE, disk.encodeFreeze(0, freeze))).toBe('none');
    expect(await tell(disk.DISK_AHEAD, data(20, 2))).toBe('DISK_ORDER');
    expect(await tell(disk.DISK_AS_AHEAD, asAhead(199, 0))).toBe('DISK_OUT_OF_RANGE');
    expect(await tell(disk.DISK_AS_AHEAD, asAhead(0, disk.crcOf(data(0, 2))))).toBe('none');
    expect(await tell(disk.DISK_AS_AHEAD, asAhead(1, 0))).toBe('DISK_OVERLAP');
    // damaged on its way, another one by now, never sent
    expect(await tell(disk.DISK_AS_AHEAD, asAhead(4, disk.crcOf(data(4, 2))))).toBe('none');
    expect(await tell(disk.DISK_AS_AHEAD, asAhead(8, 1))).toBe('none');
    expect(await tell(disk.DISK_AS_AHEAD, asAhead(12, 0))).toBe('none');
    await target.frozen;
    expect(target.stats()).toMatchObject({ badFrames: 1, blocks: { metadata: 2, dirty: 198 } });
    expect(await target.read(SECTOR, 2)).toEqual(Buffer.from([1, 1]));
    const pulled = pair.up.log.filter(({ type }) => type === disk.DISK_PULL);
    expect(pulled).toHaveLength(3);
  });

  it('keeps no more metadata ahead than it says', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, content);
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    const count = disk.MAX_METADATA_EXTENT_BYTES / SECTOR;
    const most = disk.MAX_AHEAD_BYTES / disk.MAX_METADATA_EXTENT_BYTES;
    for (let i = 0; i <= most; i++) {
      const told = codeOf(pair.target.handle(disk.DISK_AHEAD, data(i * count, count), 'urgent'));
      expect(await told).toBe(i < most ? 'none' : 'DISK_LIMIT');
    }
  });

  it('sending metadata damaged only makes it be pulled', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, content);
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    const bad = Buffer.from(data(0, 2));
    bad.writeUInt8(99, 16);
    await pair.target.handle(
      disk.DISK_FREEZE,
      disk.encodeFreeze(0, { fileSizeBytes: content.length, metadataSectors: 2, qcow2: true }),
      'urgent',
    );
    await pair.target.handle(disk.DISK_METADATA, bad, 'urgent');
    await pair.target.frozen;
    expect(pair.target.stats()).toMatchObject({ badFrames: 1, blocks: { metadata: 0, dirty: 200 } });
    expect(pair.up.log.map(({ type }) => type)).toEqual([disk.DISK_READY, disk.DISK_PULL]);
    const answer = disk.encodeData(0, 1, { first: 0, count: 2 }, content.subarray(0, 2 * SECTOR), CODEC_RAW);
    await pair.target.handle(disk.DISK_ANSWER, answer, 'urgent');
    await pair.target.handle(disk.DISK_ANSWERED, disk.encodeAnswered(0, 1), 'urgent');
    expect(await pair.target.read(0, 2 * SECTOR)).toEqual(content.subarray(0, 2 * SECTOR));
  });
});
