import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { errorCode } from '../../base/errors.ts';
import {
  GuestMap,
  type Qcow2Header,
  fixedExtents,
  l2Extents,
  mergeExtents,
  parseL1,
  parseL2Entry,
  parseQcow2Header,
} from './index.ts';

const CLUSTER = 65_536;

/** A sound header of version 3: 16 clusters of 64 KiB, L1 at cluster 3, refcount table at cluster 1. */
function header(change: (bytes: Buffer) => void = () => undefined): Buffer {
  const bytes = Buffer.alloc(CLUSTER);
  bytes.writeUInt32BE(0x514649fb, 0);
  bytes.writeUInt32BE(3, 4);
  bytes.writeUInt32BE(16, 20);
  bytes.writeBigUInt64BE(BigInt(16 * CLUSTER), 24);
  bytes.writeUInt32BE(1, 36);
  bytes.writeBigUInt64BE(BigInt(3 * CLUSTER), 40);
  bytes.writeBigUInt64BE(BigInt(CLUSTER), 48);
  bytes.writeUInt32BE(1, 56);
  bytes.writeUInt32BE(4, 96);
  bytes.writeUInt32BE(104, 100);
  change(bytes);
  return bytes;
}

function table(entries: readonly bigint[]): Buffer {
  const bytes = Buffer.alloc(CLUSTER);
  for (const [i, entry] of entries.entries()) bytes.writeBigUInt64BE(entry, i * 8);
  return bytes;
}

const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const at = (cluster: number): bigint => BigInt(cluster * CLUSTER);

function mapOf(parsed: Qcow2Header, entries: readonly bigint[]): GuestMap {
  return new GuestMap(parsed, [4 * CLUSTER], () => table(entries));
}

describe('qcow2 header', () => {
  it('is parsed', () => {
    const parsed = parseQcow2Header(
      header((bytes) => {
        bytes.writeBigUInt64BE(200n, 8);
        bytes.writeUInt32BE(4, 16);
        bytes.write('base', 200);
        bytes.writeBigUInt64BE(1n, 72);
      }),
    );
    expect(parsed).toMatchObject({ clusterBytes: CLUSTER, backingFile: 'base', dirty: true, corrupt: false });
    expect(mergeExtents(fixedExtents(parsed), 2 ** 40)).toEqual([
      { offsetBytes: 0, lengthBytes: 2 * CLUSTER },
      { offsetBytes: 3 * CLUSTER, lengthBytes: 8 },
    ]);
  });

  it.each<[string, string, (bytes: Buffer) => void]>([
    ['no magic', 'QCOW2_INVALID', (b) => b.writeUInt32BE(1, 0)],
    ['version 4', 'QCOW2_UNSUPPORTED', (b) => b.writeUInt32BE(4, 4)],
    ['encryption', 'QCOW2_UNSUPPORTED', (b) => b.writeUInt32BE(2, 32)],
    ['an external data file', 'QCOW2_UNSUPPORTED', (b) => b.writeBigUInt64BE(4n, 72)],
    ['an unknown feature', 'QCOW2_UNSUPPORTED', (b) => b.writeBigUInt64BE(1n << 40n, 72)],
    ['tiny clusters', 'QCOW2_INVALID', (b) => b.writeUInt32BE(8, 20)],
    ['huge clusters', 'QCOW2_INVALID', (b) => b.writeUInt32BE(22, 20)],
    ['a huge L1', 'QCOW2_LIMIT', (b) => b.writeUInt32BE(4 * 1024 * 1024 + 1, 36)],
    ['an L1 that is too small', 'QCOW2_INVALID', (b) => b.writeUInt32BE(0, 36)],
    ['a huge disk', 'QCOW2_LIMIT', (b) => b.writeBigUInt64BE(2n ** 50n + 1n, 24)],
    ['an offset beyond 2^53', 'QCOW2_INVALID', (b) => b.writeBigUInt64BE(2n ** 60n, 40)],
    ['an L1 between clusters', 'QCOW2_INVALID', (b) => b.writeBigUInt64BE(512n, 40)],
    ['a huge refcount table', 'QCOW2_LIMIT', (b) => b.writeUInt32BE(1000, 56)],
    [
      'a long backing name',
      'QCOW2_INVALID',
      (b) => {
        b.writeBigUInt64BE(200n, 8);
        b.writeUInt32BE(1024, 16);
      },
    ],
    [
      'a backing name outside of the cluster',
      'QCOW2_INVALID',
      (b) => {
        b.writeBigUInt64BE(BigInt(CLUSTER - 1), 8);
        b.writeUInt32BE(2, 16);
      },
    ],
  ])('refuses %s', (_, code, change) => {
    expect(() => parseQcow2Header(header(change))).toThrow(expect.objectContaining({ code }));
  });

  it('refuses garbage, header or tables, with a code and never anything else', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(110), fc.nat(255)), { maxLength: 12 }),
        fc.uint8Array({ minLength: 16, maxLength: 256 }),
        (changes, tables) => {
          try {
            const parsed = parseQcow2Header(
              header((bytes) => {
                for (const [at, value] of changes) bytes[at] = value;
              }),
            );
            const bytes = Buffer.from(tables);
            parseL2Entry(parsed, bytes, 0);
            const map = new GuestMap(parsed, [CLUSTER], () => bytes);
            map.exclusiveExtent(0, 2 ** 24);
            l2Extents(parsed, parseL1(parsed, bytes));
          } catch (error) {
            if (!(error instanceof RangeError && /guest cluster/.test(error.message))) {
              expect(errorCode(error)).toMatch(/^QCOW2_/);
            }
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});

describe('qcow2 tables', () => {
  const parsed = parseQcow2Header(header());

  it('knows every kind of entry', () => {
    const map = mapOf(parsed, [
      0n,
      1n,
      COPIED | at(9) | 1n,
      COPIED | at(5),
      at(6),
      COMPRESSED | (2n << 54n) | 0x12345n,
    ]);
    expect([0, 1, 2, 3, 4, 5].map((i) => map.cluster(i))).toEqual([
      { kind: 'unallocated' },
      { kind: 'zero', hostOffsetBytes: undefined },
      { kind: 'zero', hostOffsetBytes: 9 * CLUSTER },
      { kind: 'data', hostOffsetBytes: 5 * CLUSTER, exclusive: true, subclusters: undefined },
      { kind: 'data', hostOffsetBytes: 6 * CLUSTER, exclusive: false, subclusters: undefined },
      { kind: 'compressed', hostOffsetBytes: 0x12345, lengthBytes: 3 * 512 - (0x12345 % 512) },
    ]);
    expect(() => map.cluster(16)).toThrow(RangeError);
  });

  it('gives only places that nothing else can use', () => {
    const map = mapOf(parsed, [
      COPIED | at(5),
      COPIED | at(6),
      COPIED | at(6),
      at(7),
      COPIED | at(3),
      COPIED | at(4),
      COMPRESSED | at(8),
      COPIED | at(8),
      COPIED | at(900),
      1n,
    ]);
    const places = Array.from({ length: 16 }, (_, i) => map.exclusiveExtent(i, 20 * CLUSTER)?.offsetBytes);
    expect(places).toEqual([5 * CLUSTER, ...Array.from({ length: 15 }, () => undefined)]);
  });

  it('gives none with snapshots or stale reference counts', () => {
    for (const change of [
      (b: Buffer) => b.writeUInt32BE(1, 60),
      (b: Buffer) => b.writeBigUInt64BE(1n, 72),
      (b: Buffer) => b.writeBigUInt64BE(2n, 72),
    ]) {
      expect(
        mapOf(parseQcow2Header(header(change)), [COPIED | at(5)]).exclusiveExtent(0, 20 * CLUSTER),
      ).toBeUndefined();
    }
  });
});
