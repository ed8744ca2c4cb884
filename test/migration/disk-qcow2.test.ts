import { copyFile, open, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { run } from '../../src/base/process.ts';
import * as disk from '../../src/wire/disk/index.ts';
import {
  type ByteExtent,
  type ClusterEntry,
  GuestMap,
  parseL1,
  parseQcow2Header,
  subclusterKind,
} from '../../src/wire/qcow2/index.ts';
import { FakeContent } from './disk-content.ts';
import { diskPair, tempFolder } from './disk-kit.ts';
import { seeded } from './disk-link.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

async function qemuIo(path: string, ...commands: string[]): Promise<void> {
  await run('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

async function create(path: string, size: number, options = '', backing?: string): Promise<void> {
  const base = backing ? ['-b', backing, '-F', 'qcow2'] : [];
  const settings = options ? ['-o', options] : [];
  await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...settings, ...base, path, String(size)]);
}

/** A base and an overlay that a guest has written here and there. */
async function overlayIn(folder: string, seed = 1): Promise<{ base: string; overlay: string; size: number }> {
  const base = join(folder, 'base.qcow2');
  const overlay = join(folder, 'overlay.qcow2');
  const size = 700 * MIB;
  await create(base, size);
  await qemuIo(base, 'write -P 0xaa 0 8M', 'write -P 0xab 600M 4M');
  await create(overlay, size, '', base);
  const random = seeded(seed);
  const writes = Array.from({ length: 40 }, (_, i) => {
    const offset = Math.floor(random() * 680 * 256) * 4;
    return `write -P ${i + 1} ${offset}k ${4 + 4 * Math.floor(random() * 60)}k`;
  });
  await qemuIo(overlay, ...writes, 'write -z 20M 1M', 'write -c -P 9 30M 64k', 'discard 40M 64k');
  return { base, overlay, size };
}

async function loadMap(path: string): Promise<GuestMap> {
  const bytes = await readFile(path);
  const header = parseQcow2Header(bytes);
  const l1 = parseL1(header, bytes.subarray(header.l1OffsetBytes));
  return new GuestMap(header, l1, (offset) => bytes.subarray(offset, offset + header.clusterBytes));
}

/** What `qemu-img map` would say of each unit: the file offset of its data, 'zero', 'packed' or 'none'. */
function ours(map: GuestMap, units: number): (number | string)[] {
  const unitBytes = map.header.clusterBytes / units;
  const said: (number | string)[] = [];
  for (let cluster = 0; cluster < map.clusters; cluster++) {
    const entry: ClusterEntry = map.cluster(cluster);
    for (let unit = 0; unit < units; unit++) {
      if (entry.kind === 'data') {
        const kind = subclusterKind(entry, unit);
        const words = { data: entry.hostOffsetBytes + unit * unitBytes, zero: 'zero', unallocated: 'none' };
        said.push(words[kind]);
      } else said.push({ unallocated: 'none', zero: 'zero', compressed: 'packed' }[entry.kind]);
    }
  }
  return said;
}

interface MapEntry {
  start: number;
  length: number;
  depth: number;
  present: boolean;
  zero: boolean;
  data: boolean;
  offset?: number;
}

async function theirs(path: string, unitBytes: number): Promise<(number | string)[]> {
  const { stdout } = await run('qemu-img', ['map', '--output=json', path]);
  const said: (number | string)[] = [];
  for (const entry of JSON.parse(stdout) as MapEntry[]) {
    for (let at = 0; at < entry.length; at += unitBytes) {
      if (entry.depth > 0 || !entry.present) said.push('none');
      else if (entry.zero) said.push('zero');
      else said.push(entry.offset === undefined ? 'packed' : entry.offset + at);
    }
  }
  return said;
}

describe('qcow2 tables against qemu-img map', () => {
  it.each([
    ['version 3', '', 1],
    ['version 2', 'compat=0.10', 1],
    ['clusters of 4 KiB', 'cluster_size=4096', 1],
    ['clusters of 2 MiB', 'cluster_size=2M', 1],
    ['extended L2 entries', 'extended_l2=on,cluster_size=128k', 32],
    ['zstd compression', 'compression_type=zstd', 1],
  ])('%s', async (_, options, units) => {
    await using folder = await tempFolder();
    const base = join(folder.path, 'base.qcow2');
    const path = join(folder.path, 'image.qcow2');
    await create(base, 64 * MIB);
    await qemuIo(base, 'write -P 1 0 64M');
    await create(path, 64 * MIB, options, base);
    await qemuIo(path, 'write -P 2 1M 300k', 'write -P 3 9M 4k', 'write -z 20M 4M', 'write -P 4 21M 64k');
    await qemuIo(path, 'write -P 5 -c 32M 2M', 'write -P 6 62M 2M', 'discard 62M 128k');
    const map = await loadMap(path);
    const said = await theirs(path, map.header.clusterBytes / units);
    expect(ours(map, units)).toEqual(said);
    expect(new Set(said.map((word) => typeof word)).size).toBe(2);
  });

  it('are refused with a data file, and not trusted with snapshots', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'image.qcow2');
    await create(path, 16 * MIB, `data_file=${join(folder.path, 'data')}`);
    await expect(loadMap(path)).rejects.toMatchObject({ code: 'QCOW2_UNSUPPORTED' });
    await create(path, 16 * MIB);
    await qemuIo(path, 'write 0 1M');
    const sizeBytes = (await stat(path)).size;
    expect((await loadMap(path)).exclusiveExtent(3, sizeBytes)).toBeDefined();
    await run('qemu-img', ['snapshot', '-c', 'one', path]);
    const map = await loadMap(path);
    expect(map.header.snapshotCount).toBe(1);
    expect(map.cluster(3)).toMatchObject({ kind: 'data', exclusive: false });
    expect(map.exclusiveExtent(3, sizeBytes)).toBeUndefined();
  });
});

describe('an overlay', () => {
  it('arrives byte for byte, metadata first, and QEMU finds it sound', async () => {
    await using folder = await tempFolder();
    const { base, overlay, size } = await overlayIn(folder.path);
    const targetPath = join(folder.path, 'target.qcow2');
    await create(targetPath, size, '', base);
    const emptyHeader = parseQcow2Header(await readFile(targetPath));
    await using pair = await diskPair(folder.path, overlay, { targetPath });
    expect(parseQcow2Header(pair.target.read(0, 65_536) as Buffer)).toEqual(emptyHeader);

    const report = await pair.source.freeze();
    await pair.target.frozen;
    const { clusterBytes, l1OffsetBytes, refcountTableOffsetBytes } = parseQcow2Header(
      await readFile(overlay),
    );
    // All that opening the image reads is here without a single pull: header, L1, refcount table, L2.
    for (const offset of [0, l1OffsetBytes, refcountTableOffsetBytes]) {
      expect(Buffer.isBuffer(pair.target.read(offset, offset === l1OffsetBytes ? 8 : clusterBytes))).toBe(
        true,
      );
    }
    expect(report.encodedBytes).toBeLessThan(report.metadataBytes / 10);
    expect(pair.down.log.every(({ lane }) => lane === 'urgent')).toBe(true);

    pair.source.startPush();
    const random = seeded(7);
    const expected = await readFile(overlay);
    const reads = Array.from({ length: 50 }, async () => {
      const offset = Math.floor(random() * expected.length);
      const data = await pair.target.read(offset, 10_000);
      const part = expected.subarray(offset, offset + 10_000);
      expect(data.subarray(0, part.length).equals(part)).toBe(true);
    });
    await Promise.all([...reads, pair.target.complete, pair.source.complete]);
    await pair.target.close();
    expect((await readFile(targetPath)).equals(expected)).toBe(true);
    await run('qemu-img', ['check', '-q', targetPath]);
    await run('qemu-img', ['compare', '-q', targetPath, overlay]);
    const { blocks, bytes } = pair.target.stats();
    expect(blocks.pushed + blocks.pulled + blocks.metadata).toBe(blocks.total);
    expect(blocks.metadata).toBeGreaterThan(0);
    expect(bytes.encoded).toBeLessThan(bytes.raw);
    // Sparse: what is zero in the source takes no room here.
    expect((await stat(targetPath)).blocks).toBeLessThanOrEqual((await stat(overlay)).blocks);
  });

  it('need not come where the guest has written anew', async () => {
    await using folder = await tempFolder();
    const { base, overlay, size } = await overlayIn(folder.path, 2);
    const targetPath = join(folder.path, 'target.qcow2');
    const top = join(folder.path, 'top.qcow2');
    await create(targetPath, size, '', base);
    await using pair = await diskPair(folder.path, overlay, { targetPath, down: { windowBytes: 1 } });
    const { source, target } = pair;
    // The guest at the target writes whole clusters, two of them also zero or packed in the overlay.
    await create(top, size, '', overlay);
    await qemuIo(top, 'write -P 77 0 256M', 'write -P 78 500M 60k');
    const reference = join(folder.path, 'reference.qcow2');
    await copyFile(overlay, reference);
    await run('qemu-img', ['rebase', '-q', '-u', '-F', 'qcow2', '-b', reference, top]);

    expect(target.skip([{ offsetBytes: 0, lengthBytes: size }])).toBe(0);
    await source.freeze();
    await target.frozen;
    await pair.up.drained('urgent');
    // One sector of a cluster that is about to be skipped is under way.
    const map = await loadMap(overlay);
    const places: ByteExtent[] = [];
    for (let cluster = 0; cluster < 4096; cluster++) {
      const place = map.exclusiveExtent(cluster, (await stat(overlay)).size);
      if (place) places.push(place);
    }
    expect(places.length).toBeGreaterThan(10);
    const [one, two] = [places[3], places[4]];
    if (!one || !two) throw new Error('no data clusters');
    const reading = target.read(one.offsetBytes, 512);
    const written = [
      { offsetBytes: 0, lengthBytes: 256 * MIB },
      { offsetBytes: 500 * MIB, lengthBytes: 60 * KIB },
    ];
    const skipped = target.skip(written);
    const clusterSectors = map.header.clusterBytes / disk.SECTOR_BYTES;
    expect(skipped).toBe(places.length * clusterSectors - 1);
    expect(target.skip(written)).toBe(0);
    await pair.up.drained('urgent');
    expect(source.stats().blocks.skipped).toBe(skipped);
    const bytes = await readFile(overlay);
    expect((await reading).equals(bytes.subarray(one.offsetBytes, one.offsetBytes + 512))).toBe(true);
    // A read that hits a skipped sector all the same gets its data, never zeros.
    const late = await target.read(two.offsetBytes, 4096);
    expect(late.equals(bytes.subarray(two.offsetBytes, two.offsetBytes + 4096))).toBe(true);

    source.startPush();
    await Promise.all([target.complete, source.complete]);
    const { blocks } = target.stats();
    expect(blocks).toMatchObject({ skipped: skipped - 1, pulled: 2, dirty: 0 });
    expect(blocks.pushed + blocks.pulled + blocks.skipped + blocks.metadata).toBe(blocks.total);
    await target.close();

    // As at the end of a migration: top over the copy, then committed into it.
    await run('qemu-img', ['check', '-q', targetPath]);
    const final = join(folder.path, 'final.qcow2');
    await copyFile(top, final);
    await run('qemu-img', ['rebase', '-q', '-u', '-F', 'qcow2', '-b', targetPath, final]);
    await run('qemu-img', ['compare', '-q', final, top]);
    await run('qemu-img', ['commit', '-q', final]);
    await run('qemu-img', ['compare', '-q', targetPath, top]);
    await run('qemu-img', ['check', '-q', targetPath]);
  });

  it('freezes what is there then, whatever was packed ahead', async () => {
    await using folder = await tempFolder();
    const { overlay } = await overlayIn(folder.path);
    await using pair = await diskPair(folder.path, overlay);
    const { source, target } = pair;
    await source.ahead();
    // a table of its own, and one that was packed already
    await qemuIo(overlay, 'write -P 77 650M 64k', 'write -P 78 0 4k');
    await source.freeze();
    await target.frozen;
    source.startPush();
    await Promise.all([target.complete, source.complete]);
    expect((await readFile(pair.targetPath)).equals(await readFile(overlay))).toBe(true);
  });

  it('makes nothing of what cannot be packed ahead', async () => {
    await using folder = await tempFolder();
    const path = join(folder.path, 'nothing.qcow2');
    await create(path, MIB);
    await using file = await open(path, 'r+');
    await file.truncate(0);
    await using pair = await diskPair(folder.path, path);
    await pair.source.ahead();
    await expect(pair.source.freeze()).rejects.toThrow();
  });

  it('stays right in every interleaving of pushes, pulls, skips, cuts and damage', async () => {
    await using folder = await tempFolder();
    const size = 24 * MIB;
    const base = join(folder.path, 'base.qcow2');
    const overlay = join(folder.path, 'overlay.qcow2');
    await create(base, size);
    await create(overlay, size, 'cluster_size=16k', base);
    const writes = Array.from(
      { length: 60 },
      (_, i) => `write -P ${i + 1} ${((i * 67) % 376) * 64}k ${16 + 4 * i}k`,
    );
    await qemuIo(overlay, ...writes, 'write -c -P 90 24320k 64k');
    const expected = await readFile(overlay);
    for (let seed = 1; seed <= 40; seed++) {
      const random = seeded(seed);
      const link = {
        delayTurns: () => Math.floor(random() * 5),
        windowBytes: random() < 0.5 ? 1 : 200_000,
        oneAtATime: random() < 0.5,
      };
      const damage = random() < 0.5 ? 0.1 : 0;
      const missing = random() < 0.5 ? 0.1 : 0;
      const content =
        random() < 0.3
          ? undefined
          : new FakeContent(expected, () => random() < 0.7, {
              turns: link.delayTurns,
              missing: () => random() < missing,
            });
      const tamper = (type: number, payload: Buffer): Buffer => {
        if (type !== disk.DISK_PUSH && type !== disk.DISK_ANSWER && type !== disk.DISK_METADATA)
          return payload;
        if (random() >= damage) return payload;
        const copy = Buffer.from(payload);
        copy.writeUInt8(copy.readUInt8(copy.length - 1) ^ 1, copy.length - 1);
        return copy;
      };
      await using pair = await diskPair(folder.path, overlay, {
        down: { ...link, tamper },
        up: link,
        content,
      });
      const { source, target } = pair;
      await source.freeze();
      source.startPush();
      await target.frozen;
      const reads: Promise<void>[] = [];
      const read = async (offset: number, length: number): Promise<void> => {
        const data = await target.read(offset, length);
        expect(data.equals(expected.subarray(offset, offset + length))).toBe(true);
      };
      for (let step = 0; step < 60; step++) {
        const dice = random();
        if (dice < 0.4) {
          const lengthBytes = Math.floor(random() * 3 * MIB);
          target.skip([{ offsetBytes: Math.floor(random() * (size - lengthBytes)), lengthBytes }]);
        } else if (dice < 0.8) {
          const offset = Math.floor(random() * (expected.length - 50_000));
          reads.push(read(offset, Math.floor(random() * 50_000)));
        } else if (dice < 0.85) pair.down.cut();
        else if (dice < 0.9) pair.up.cut();
        else await pair.target.read(0, 1);
        if (random() < 0.3) {
          pair.down.resume();
          pair.up.resume();
        }
      }
      pair.down.resume();
      pair.up.resume();
      await Promise.all([...reads, target.complete, source.complete]);
      expect([...pair.down.refusals, ...pair.up.refusals]).toEqual([]);
      for (const { blocks } of [target.stats(), source.stats()]) {
        expect(blocks.pushed + blocks.pulled + blocks.skipped + blocks.metadata).toBe(blocks.total);
      }
      // Only what was skipped differs, and reads as zeros in the file.
      const copy = await readFile(pair.targetPath);
      let different = 0;
      for (let at = 0; at < expected.length; at += disk.SECTOR_BYTES) {
        const sector = copy.subarray(at, at + disk.SECTOR_BYTES);
        if (sector.equals(expected.subarray(at, at + disk.SECTOR_BYTES))) continue;
        expect(disk.isZero(sector)).toBe(true);
        different++;
      }
      expect(copy.length).toBe(expected.length);
      expect(different).toBeLessThanOrEqual(target.stats().blocks.skipped);
    }
  });

  it('that is not sound, or no qcow2 at all, is refused before anything is sent', async () => {
    await using folder = await tempFolder();
    const { overlay } = await overlayIn(folder.path);
    for (const [offset, bytes] of [
      [0, [1, 2, 3, 4]],
      [40, [0xff]],
      [20, [0, 0, 0, 60]],
    ] as const) {
      const broken = join(folder.path, 'broken');
      await copyFile(overlay, broken);
      const file = await open(broken, 'r+');
      await file.write(Buffer.from(bytes), 0, bytes.length, offset);
      await file.close();
      await using pair = await diskPair(folder.path, broken);
      await expect(pair.source.freeze()).rejects.toMatchObject({ code: 'QCOW2_INVALID' });
      expect(pair.down.log).toEqual([]);
    }
  });
});
