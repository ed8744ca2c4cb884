import { readFile, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as tick } from 'node:timers/promises';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { errorCode } from '../../src/base/errors.ts';
import * as disk from '../../src/wire/disk/index.ts';
import { FakeContent } from './disk-content.ts';
import { diskPair, mixedContent, tempFolder } from './disk-kit.ts';
import { seeded } from './disk-link.ts';

const SECTOR = 4096;

describe('disk post-copy', () => {
  it('keeps every interleaving of pushes, pulls, cuts and damage byte for byte', async () => {
    await using folder = await tempFolder();
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          seed: fc.integer(),
          sectors: fc.integer({ min: 0, max: 120 }),
          tailBytes: fc.integer({ min: 0, max: SECTOR - 1 }),
          reads: fc.integer({ min: 0, max: 30 }),
          damage: fc.constantFrom(0, 0, 0.1, 0.3),
          loss: fc.constantFrom(0, 0, 0.1),
          oneAtATime: fc.boolean(),
          windowBytes: fc.constantFrom(1, 20_000, 300_000),
          codec: fc.constantFrom(1 as const, 2 as const, 3 as const),
          known: fc.constantFrom(0, 0.3, 0.9, 1),
          missing: fc.constantFrom(0, 0, 0.05, 1),
        }),
        async (plan) => {
          const random = seeded(plan.seed);
          const content = mixedContent(plan.sectors * SECTOR + plan.tailBytes, random);
          const path = join(folder.path, 'source');
          await writeFile(path, content);
          const delayTurns = (): number => Math.floor(random() * 6);
          const link = { delayTurns, oneAtATime: plan.oneAtATime, windowBytes: plan.windowBytes };
          const known =
            plan.known === 0
              ? undefined
              : new FakeContent(content, () => random() < plan.known, {
                  turns: delayTurns,
                  missing: () => random() < plan.missing,
                });
          await using pair = await diskPair(folder.path, path, {
            content: known,
            before: Buffer.from('before'),
            source: { format: 'raw', codec: plan.codec },
            up: link,
            down: {
              ...link,
              tamper: (type, payload) => {
                if (type !== disk.DISK_PUSH && type !== disk.DISK_ANSWER) return payload;
                // Lost within the handler: as if a frame's header had been damaged into another's.
                if (random() < plan.loss) return undefined;
                return random() < plan.damage ? damaged(payload, random) : payload;
              },
            },
          });
          const { source, target } = pair;
          const frozen = source.freeze();
          const readings: Promise<void>[] = [];
          const readSome = async (): Promise<void> => {
            const offset = Math.floor(random() * (content.length + 1));
            const length = Math.floor(random() * 70_000);
            const data = await target.read(offset, length);
            const expected = Buffer.alloc(length);
            content.copy(expected, 0, offset);
            expect(data.equals(expected)).toBe(true);
          };
          await frozen;
          await target.frozen;
          const pushAt = Math.floor(random() * (plan.reads + 1));
          for (let i = 0; i <= plan.reads; i++) {
            if (i === pushAt) source.startPush();
            if (i < plan.reads) readings.push(readSome());
            if (random() < 0.2) pair.down.cut();
            if (random() < 0.2) pair.up.cut();
            if (random() < 0.5) await tick();
            if (random() < 0.7) pair.down.resume();
            if (random() < 0.7) pair.up.resume();
          }
          pair.down.resume();
          pair.up.resume();
          await target.complete;
          await source.complete;
          await Promise.all(readings);
          expect((await readFile(pair.targetPath)).equals(content)).toBe(true);
          expect([...pair.down.refusals, ...pair.up.refusals]).toEqual([]);
          const there = target.stats().blocks;
          expect(there.pushed + there.pulled + there.skipped + there.metadata).toBe(there.total);
          const here = source.stats().blocks;
          expect(here.pushed + here.pulled + here.skipped + here.metadata).toBe(here.total);
          expect(there.referenced).toBeLessThanOrEqual(there.pushed + there.pulled);
          if (plan.damage === 0 && plan.loss === 0) {
            expect(target.stats().badFrames).toBe(0);
            if (plan.missing > 0 && known) return;
            expect(here.resent).toBe(0);
            expect(there.dropped).toBe(0);
            expect(there.pulled).toBe(here.pulled);
            expect(there.referenced).toBe(here.referenced);
          }
        },
      ),
      { numRuns: 250 },
    );
  });

  it('serves the local file until the freeze, and zeros past its end', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, Buffer.alloc(10_000, 7));
    await using pair = await diskPair(folder.path, path, {
      before: Buffer.from('before'),
      source: { format: 'raw' },
    });
    expect(pair.target.read(2, 6)).toEqual(Buffer.from('fore\0\0'));
    await pair.source.freeze();
    await pair.target.frozen;
    pair.source.startPush();
    expect(await pair.target.read(9_998, 4)).toEqual(Buffer.from([7, 7, 0, 0]));
    await pair.target.complete;
    expect(pair.target.read(0, 2)).toEqual(Buffer.from([7, 7]));
    expect(pair.target.read(500_000, 2)).toEqual(Buffer.from([0, 0]));
    expect(pair.target.sizeBytes).toBe(2 ** 30);
  });

  it('answers a pull ahead of the push, and goes on behind it', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    const content = mixedContent(256 * SECTOR, seeded(4));
    await writeFile(path, content);
    const order: number[] = [];
    await using pair = await diskPair(folder.path, path, {
      source: { format: 'raw' },
      down: {
        windowBytes: 1,
        tamper: (type, payload) => {
          if (type === disk.DISK_PUSH) order.push(payload.readUInt32BE(8));
          return payload;
        },
      },
    });
    await pair.source.freeze();
    await pair.target.frozen;
    const reading = pair.target.read(160 * SECTOR + 5, SECTOR);
    await pair.up.drained('urgent');
    pair.source.startPush();
    await reading;
    await pair.target.complete;
    expect(order[0]).toBe(162);
    expect(order.at(-1)).toBeLessThan(162);
    expect(pair.target.stats().blocks.pulled).toBe(2);
    expect(pair.target.stats().pullLatency.count).toBe(1);
  });

  it('pulls a sector once, however many read it', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, Buffer.alloc(64 * SECTOR, 3));
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    await pair.source.freeze();
    await pair.target.frozen;
    const reads = await Promise.all([0, 1, 2, 3].map(async (i) => pair.target.read(i * SECTOR, 8 * SECTOR)));
    expect(reads.every((data) => data.equals(Buffer.alloc(8 * SECTOR, 3)))).toBe(true);
    expect(pair.up.log.filter(({ type }) => type === disk.DISK_PULL)).toHaveLength(4);
    expect(pair.target.stats().blocks.pulled).toBe(11);
  });

  it('waits through a cut, and fails what waits only when it is told to', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, Buffer.alloc(64 * SECTOR, 3));
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    await pair.source.freeze();
    await pair.target.frozen;
    pair.down.cut();
    let settled = false;
    const reading = Promise.resolve(pair.target.read(0, 10)).finally(() => {
      settled = true;
    });
    for (let i = 0; i < 50; i++) await tick();
    expect(settled).toBe(false);
    pair.down.resume();
    expect(await reading).toEqual(Buffer.alloc(10, 3));
    pair.down.cut();
    const lost = pair.target.read(20 * SECTOR, 10);
    pair.target.abort(new Error('given up'));
    await expect(lost).rejects.toThrow('given up');
    await expect(pair.target.complete).rejects.toThrow('given up');
    await expect(pair.target.read(0, 1)).rejects.toThrow('given up');
    pair.down.resume();
  });

  it('gives up when data is damaged every time', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, Buffer.alloc(64 * SECTOR, 3));
    await using pair = await diskPair(folder.path, path, {
      source: { format: 'raw' },
      down: {
        tamper: (type, payload) =>
          type === disk.DISK_PUSH || type === disk.DISK_ANSWER ? damaged(payload, () => 0) : payload,
      },
    });
    await pair.source.freeze();
    await pair.target.frozen;
    pair.source.startPush();
    await expect(pair.target.complete).rejects.toMatchObject({ code: 'DISK_CORRUPT' });
  });

  it('never lets a file that changed after the stop become complete', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, Buffer.alloc(64 * SECTOR, 3));
    await using pair = await diskPair(folder.path, path, { source: { format: 'raw' } });
    await pair.source.freeze();
    await utimes(path, new Date(1), new Date(1));
    pair.source.startPush();
    await expect(pair.source.complete).rejects.toMatchObject({ code: 'DISK_SOURCE_CHANGED' });
    while (pair.target.bitmap().count > 0) await tick();
    pair.target.abort(new Error('the source says so'));
    await expect(pair.target.complete).rejects.toThrow();

    await using other = await diskPair(folder.path, path, { source: { format: 'raw' } });
    await other.source.freeze();
    await truncate(path, 10 * SECTOR);
    other.source.startPush();
    await expect(other.source.complete).rejects.toMatchObject({ code: 'DISK_SOURCE_CHANGED' });
  });

  it('refuses an overlay larger than announced', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, Buffer.alloc(3 * SECTOR));
    await using pair = await diskPair(folder.path, path, {
      source: { format: 'raw' },
      announcedSizeBytes: 2 * SECTOR,
    });
    await pair.source.freeze();
    await pair.down.drained('urgent');
    expect(pair.down.refusals.map(errorCode)).toEqual(['DISK_TOO_LARGE']);
  });

  it('ends with what the signal says', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'source');
    await writeFile(path, Buffer.alloc(300 * SECTOR, 1));
    const stop = new AbortController();
    await using pair = await diskPair(folder.path, path, {
      source: { format: 'raw', signal: stop.signal },
      down: { windowBytes: 1 },
    });
    await pair.source.freeze();
    pair.source.startPush();
    stop.abort(new Error('enough'));
    await expect(pair.source.complete).rejects.toThrow('enough');
  });
});

/** One bit of the checksum or of the payload flipped: the header stays plausible. */
function damaged(message: Buffer, random: () => number): Buffer {
  const copy = Buffer.from(message);
  const at = 16 + Math.floor(random() * (copy.length - 16));
  copy[at] = (copy[at] ?? 0) ^ (1 << Math.floor(random() * 8));
  return copy;
}
