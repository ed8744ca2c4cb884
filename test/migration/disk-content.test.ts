import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as tick } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { MAX_CONTENT_MISSES } from '../../src/migration/disk/constants.ts';
import { CODEC_RAW } from '../../src/wire/codec.ts';
import * as disk from '../../src/wire/disk/index.ts';
import { FakeContent } from './disk-content.ts';
import { diskPair, type Pair, tempFolder } from './disk-kit.ts';
import { seeded } from './disk-link.ts';

const SECTOR = 4096;

/** Sectors of which none is like another. */
function distinct(sectors: number, seed = 1): Buffer {
  const random = seeded(seed);
  const data = Buffer.alloc(sectors * SECTOR);
  for (let at = 0; at < data.length; at += 4) data.writeUInt32LE(Math.floor(random() * 2 ** 32), at);
  return data;
}

async function sourceFile(folder: string, data: Buffer): Promise<string> {
  const path = join(folder, 'source');
  await writeFile(path, data);
  return path;
}

async function finish(pair: Pair, data: Buffer): Promise<void> {
  pair.source.startPush();
  await Promise.all([pair.target.complete, pair.source.complete]);
  expect((await readFile(pair.targetPath)).equals(data)).toBe(true);
  expect([...pair.down.refusals, ...pair.up.refusals]).toEqual([]);
}

describe('blocks of the disk by reference', () => {
  it('what the target holds is not sent', async () => {
    await using folder = await tempFolder();
    const data = distinct(1000);
    const content = new FakeContent(data, () => true);
    await using pair = await diskPair(folder.path, await sourceFile(folder.path, data), {
      source: { format: 'raw' },
      content,
    });
    await pair.source.freeze();
    await finish(pair, data);
    expect(pair.target.stats().blocks).toMatchObject({ pushed: 1000, referenced: 1000, dropped: 0 });
    expect(pair.source.stats().blocks).toMatchObject({ pushed: 1000, referenced: 1000, resent: 0 });
    expect(pair.source.stats().bytes).toMatchObject({ raw: data.length });
    expect(pair.source.stats().bytes.encoded).toBeLessThan(1000);
  });

  it('an answer to a read is a reference too, read ahead of what is pushed', async () => {
    await using folder = await tempFolder();
    const data = distinct(200);
    const content = new FakeContent(data, () => true, { turns: () => 3 });
    await using pair = await diskPair(folder.path, await sourceFile(folder.path, data), {
      source: { format: 'raw' },
      content,
    });
    await pair.source.freeze();
    await pair.target.frozen;
    const read = await pair.target.read(100 * SECTOR + 5, SECTOR);
    expect(read.equals(data.subarray(100 * SECTOR + 5, 101 * SECTOR + 5))).toBe(true);
    expect(content.reads).toEqual([{ ordinals: [100, 101], urgent: true }]);
    await finish(pair, data);
    expect(content.reads.slice(1).some(({ urgent }) => urgent)).toBe(false);
    expect(pair.target.stats().blocks).toMatchObject({ pulled: 2, referenced: 200 });
  });

  it('what is not at the target comes as bytes, and reads wait for it', async () => {
    await using folder = await tempFolder();
    const data = distinct(300);
    const content = new FakeContent(data, () => true, { missing: (ordinal) => ordinal % 50 === 3 });
    await using pair = await diskPair(folder.path, await sourceFile(folder.path, data), {
      source: { format: 'raw' },
      content,
    });
    await pair.source.freeze();
    await pair.target.frozen;
    const read = await pair.target.read(53 * SECTOR, SECTOR);
    expect(read.equals(data.subarray(53 * SECTOR, 54 * SECTOR))).toBe(true);
    await finish(pair, data);
    const { blocks, badFrames } = pair.target.stats();
    expect(badFrames).toBe(0);
    expect(blocks.referenced).toBeGreaterThan(0);
    expect(blocks.referenced).toBeLessThan(300);
    expect(pair.source.stats().blocks.resent).toBe(300 - blocks.referenced);
  });

  it('a source whose references are missed too often refers to nothing any more', async () => {
    await using folder = await tempFolder();
    const data = distinct(64 * 80);
    const content = new FakeContent(data, () => true, { missing: () => true });
    await using pair = await diskPair(folder.path, await sourceFile(folder.path, data), {
      source: { format: 'raw' },
      content,
      down: { windowBytes: 1, oneAtATime: true },
    });
    await pair.source.freeze();
    await finish(pair, data);
    const { blocks } = pair.source.stats();
    expect(blocks.resent).toBeGreaterThanOrEqual(64 * MAX_CONTENT_MISSES);
    expect(blocks.referenced).toBeLessThan(64 * 80);
    expect(pair.target.stats().blocks).toMatchObject({ referenced: 0, dropped: 0 });
  });

  it('content that nobody has is pulled as bytes', async () => {
    await using folder = await tempFolder();
    const data = distinct(100);
    const path = await sourceFile(folder.path, data);
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    pair.source.useContent(new FakeContent(data, () => true));
    await pair.source.freeze();
    await finish(pair, data);
    expect(pair.target.stats().blocks).toMatchObject({ referenced: 0 });
  });

  it('a transfer that is given up lets go of frames that wait for their pages', async () => {
    await using folder = await tempFolder();
    const data = distinct(100);
    const hold = Promise.withResolvers<void>();
    const content = new FakeContent(data, () => true);
    const path = await sourceFile(folder.path, data);
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' }, content });
    pair.target.useContent({
      read: async (ordinals) => {
        await hold.promise;
        return content.read(ordinals);
      },
    });
    await pair.source.freeze();
    await pair.target.frozen;
    const reading = pair.target.read(0, 100);
    pair.source.startPush();
    await pair.down.drained('bulk');
    for (let i = 0; i < 20; i++) await tick();
    // END has come on both lanes: what waits is not taken for lost
    expect(pair.up.log.filter(({ type }) => type === disk.DISK_PULL)).toHaveLength(1);
    pair.target.abort(new Error('given up'));
    hold.resolve();
    await expect(reading).rejects.toThrow('given up');
    await expect(pair.target.complete).rejects.toThrow('given up');
    expect((await readFile(pair.targetPath)).equals(Buffer.alloc(data.length))).toBe(true);
  });

  it('names are refused where there must be bytes', async () => {
    await using folder = await tempFolder();
    const data = distinct(40);
    const content = new FakeContent(data, () => true, { missing: () => true });
    const path = await sourceFile(folder.path, data);
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' }, content });
    const named = (pull: number, count: number): Buffer =>
      disk.encodeContent(0, pull, { first: 0, count }, data.subarray(0, count * SECTOR), CODEC_RAW, content)
        .message;
    const { target } = pair;
    const freeze = { fileSizeBytes: data.length, metadataSectors: 3, qcow2: true };
    await target.handle(disk.DISK_FREEZE, disk.encodeFreeze(0, freeze), 'urgent');
    await expect(target.handle(disk.DISK_METADATA, named(0, 3), 'urgent')).rejects.toMatchObject({
      code: 'DISK_ORDER',
    });
    const metadata = disk.encodeData(0, 0, { first: 37, count: 3 }, data.subarray(37 * SECTOR), CODEC_RAW);
    await target.handle(disk.DISK_METADATA, metadata, 'urgent');
    await target.frozen;
    // the missing pages of the push are pulled again, and that answer must not name anything
    await target.handle(disk.DISK_PUSH, named(0, 2), 'bulk');
    while (!pair.up.log.some(({ type }) => type === disk.DISK_PULL)) await tick();
    await expect(target.handle(disk.DISK_ANSWER, named(1, 2), 'urgent')).rejects.toMatchObject({
      code: 'DISK_ORDER',
    });
  });
});
