import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errorCode } from '../../base/errors.ts';
import { tempDir } from '../../../test/kit/tempdir.ts';
import { buildPageIndex } from './builder.ts';
import { PAGE_BYTES } from './constants.ts';
import { PageLookup } from './lookup.ts';
import { decodePageIndex, encodePageIndex, type PageIndex } from './page-index.ts';

const sha = (data: Buffer): Buffer => createHash('sha256').update(data).digest();
const codeOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return errorCode(error);
  }
  return 'none';
};

/** Few different pages, so that files repeat them; 0 is the zero page. */
const pageOf = (kind: number): Buffer => Buffer.alloc(PAGE_BYTES, kind === 0 ? 0 : `page ${kind} `);
const kinds = fc.array(fc.nat(12), { maxLength: 40 });
const tails = fc.uint8Array({ maxLength: 100 });

/** What the format's description says, written down without a thought of speed. */
function expected(pages: readonly Buffer[]): { page: number; body: Buffer }[] {
  const seen = new Set<string>();
  return pages.flatMap((body, page) => {
    const key = body.toString('latin1');
    if (seen.has(key) || body.every((byte) => byte === 0)) return [];
    seen.add(key);
    return [{ page, body }];
  });
}

async function indexOf(data: Buffer): Promise<PageIndex> {
  await using dir = await tempDir();
  await writeFile(dir.file('disk'), data);
  return decodePageIndex(await buildPageIndex(dir.file('disk')));
}

test('an index lists each page of a file once, and finds it by its content: against brute force', async () => {
  await fc.assert(
    fc.asyncProperty(kinds, tails, kinds, async (list, tail, asked) => {
      const pages = list.map(pageOf);
      const data = Buffer.concat([...pages, Buffer.from(tail)]);
      const index = await indexOf(data);
      const entries = expected(pages);
      expect([...index.pages]).toEqual(entries.map(({ page }) => page));
      expect([...index.crcs]).toEqual(entries.map(({ body }) => crc32(body)));
      expect(index.hashes.equals(Buffer.concat(entries.map(({ body }) => sha(body).subarray(0, 16))))).toBe(
        true,
      );
      expect(index).toMatchObject({ fileBytes: data.length, fileSha256: sha(data).toString('hex') });

      // two files, as the sites have agreed on them
      const lookup = new PageLookup([
        index,
        await indexOf(Buffer.concat([pageOf(99), ...asked.map(pageOf)])),
      ]);
      for (const body of [...asked.map(pageOf), pageOf(99), pageOf(100)]) {
        const first = entries.findIndex((entry) => entry.body.equals(body));
        const padded = Buffer.concat([Buffer.alloc(3), body]);
        const found = lookup.find(padded, 3, crc32(body));
        if (first >= 0) expect(found).toBe(first);
        else if (body.equals(pageOf(100)) || body[0] === 0) expect(found).toBe(-1);
        else expect(found).toBeGreaterThanOrEqual(index.entries);
      }
    }),
    { numRuns: 30 },
  );
});

test('files longer than what is read at once', async () => {
  const pages = Array.from({ length: 700 }, (_, i) => pageOf(i));
  const index = await indexOf(Buffer.concat([...pages, ...pages, Buffer.alloc(17, 1)]));
  expect(index.entries).toBe(699);
  expect([...index.pages]).toEqual(Array.from({ length: 699 }, (_, i) => i + 1));
  const lookup = new PageLookup([index]);
  for (const page of pages.slice(1)) expect(lookup.find(page, 0, crc32(page))).toBeGreaterThanOrEqual(0);
});

test('what has the checksum of a page and other bytes is not found', async () => {
  const page = pageOf(1);
  const lookup = new PageLookup([await indexOf(page)]);
  expect(lookup.find(pageOf(2), 0, crc32(page))).toBe(-1);
});

test('many entries of one checksum, as only a forged index has them, end a look-up early', () => {
  const entries = 5000;
  const columns = {
    entries,
    pages: Uint32Array.from({ length: entries }, (_, i) => i),
    crcs: new Uint32Array(entries).fill(7),
    hashes: Buffer.alloc(16 * entries),
  };
  const index = decodePageIndex(encodePageIndex(columns, Buffer.alloc(32), entries * PAGE_BYTES));
  expect(new PageLookup([index]).find(pageOf(1), 0, 7)).toBe(-1);
});

describe('an index that is not whole', () => {
  const columns = {
    entries: 2,
    pages: Uint32Array.of(1, 5),
    crcs: Uint32Array.of(3, 4),
    hashes: Buffer.alloc(32, 9),
  };
  const good = encodePageIndex(columns, Buffer.alloc(32, 8), 6 * PAGE_BYTES);

  /** Changed, and with a right checksum again: what only a forger makes. */
  function forged(change: (bytes: Buffer) => void): Buffer {
    const bytes = Buffer.from(good);
    change(bytes);
    sha(bytes.subarray(0, -32)).copy(bytes, bytes.length - 32);
    return bytes;
  }

  test('is itself when it is whole, wherever it stands in memory', () => {
    for (const shift of [0, 1, 2, 3]) {
      const moved = Buffer.concat([Buffer.alloc(shift), good]).subarray(shift);
      expect(decodePageIndex(moved)).toMatchObject({ entries: 2, fileBytes: 6 * PAGE_BYTES });
      expect([...decodePageIndex(moved).pages]).toEqual([1, 5]);
    }
  });

  test('every changed byte, every cut and every addition is noticed', () => {
    for (let at = 0; at < good.length; at++) {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] ?? 0) ^ 0x10;
      expect(codeOf(() => decodePageIndex(bad))).toMatch(/^PAGES_INDEX_(DAMAGED|VERSION)$/);
      expect(codeOf(() => decodePageIndex(good.subarray(0, at)))).toBe('PAGES_INDEX_DAMAGED');
    }
    expect(codeOf(() => decodePageIndex(Buffer.concat([good, Buffer.alloc(1)])))).toBe('PAGES_INDEX_DAMAGED');
  });

  test.each<[string, string, (bytes: Buffer) => void]>([
    ['another version', 'PAGES_INDEX_VERSION', (b) => b.writeUInt32LE(2, 8)],
    ['another page size', 'PAGES_INDEX_VERSION', (b) => b.writeUInt32LE(8192, 12)],
    ['another hash', 'PAGES_INDEX_VERSION', (b) => b.writeUInt32LE(2, 16)],
    ['more entries than there are', 'PAGES_INDEX_DAMAGED', (b) => b.writeUInt32LE(3, 20)],
    ['four thousand million entries', 'PAGES_INDEX_DAMAGED', (b) => b.writeUInt32LE(0xffff_ffff, 20)],
    ['pages beyond the file', 'PAGES_INDEX_DAMAGED', (b) => b.writeUInt32LE(6, 68)],
    ['pages out of order', 'PAGES_INDEX_DAMAGED', (b) => b.writeUInt32LE(5, 64)],
    ['another magic', 'PAGES_INDEX_DAMAGED', (b) => b.write('x', 0)],
  ])('%s: %s', (_, code, change) => {
    expect(codeOf(() => decodePageIndex(forged(change)))).toBe(code);
  });

  test('garbage gives coded errors only', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (noise) => {
        const bytes = Buffer.from(noise);
        if (bytes.length > 40) good.copy(bytes, 0, 0, 20);
        expect(codeOf(() => decodePageIndex(bytes))).toMatch(/^PAGES_INDEX_/);
      }),
    );
  });
});

test('the index of an image of 2 GiB takes at most 64 MiB, table included', () => {
  const entries = (2 * 1024 ** 3) / PAGE_BYTES;
  const columns = {
    entries,
    pages: Uint32Array.from({ length: entries }, (_, page) => page),
    crcs: Uint32Array.from({ length: entries }, (_, page) => page),
    hashes: Buffer.alloc(16 * entries),
  };
  const index = decodePageIndex(encodePageIndex(columns, Buffer.alloc(32), entries * PAGE_BYTES));
  expect(new PageLookup([index]).byteLength).toBeLessThanOrEqual(64 * 1024 ** 2);
});
