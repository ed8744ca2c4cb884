import { chmod, mkdir, readdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import type { CloudapError } from '../../src/base/errors.ts';
import { errorCode } from '../../src/base/errors.ts';
import { stageImage } from '../../src/content/images/stage.ts';
import { ImageStore } from '../../src/content/images/store.ts';
import { loadOrMakePageIndexes } from '../../src/content/pages/background.ts';
import { ContentReader } from '../../src/content/pages/reader.ts';
import {
  type ContentFile,
  contentOfDisk,
  ensurePageIndex,
  loadPageIndex,
  makePageIndex,
} from '../../src/content/pages/store.ts';
import { sleep } from '../../src/base/async.ts';
import { noisePage } from '../kit/qemuStream.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

const PAGES = 300;
/** Page i of the test's disk. */
const body = (i: number): Buffer => noisePage(1 + 2 * i);

async function disk(dir: TempDir, name = 'a'): Promise<ContentFile> {
  await mkdir(dir.file(name));
  const path = dir.file(`${name}/disk.raw`);
  await writeFile(path, Buffer.concat(Array.from({ length: PAGES }, (_, i) => body(i))));
  return contentOfDisk(path);
}
async function flip(path: string, offset: number): Promise<void> {
  const bytes = await readFile(path);
  bytes[offset] = (bytes[offset] ?? 0) ^ 1;
  await chmod(path, 0o644);
  await writeFile(path, bytes);
}
const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);
const neverWarn = (error: CloudapError): void => {
  throw error;
};
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await sleep(20);
}

test('an index appears whole, is read-only, survives nothing that is wrong with it, and is made anew', async () => {
  await using dir = await tempDir();
  const file = await disk(dir);
  expect(await codeOf(loadPageIndex(file))).toBe('PAGES_INDEX_MISSING');
  expect(await ensurePageIndex(file)).toBe(true);
  expect(await ensurePageIndex(file)).toBe(false);
  const { digest, entries } = await loadPageIndex(file);
  expect(entries).toBe(PAGES);
  expect((await stat(file.indexPath)).mode & 0o777).toBe(0o444);
  expect(await readdir(dir.file('a'))).toEqual(['disk.raw', 'pages.idx']);

  await flip(file.indexPath, 1000);
  expect(await codeOf(loadPageIndex(file))).toBe('PAGES_INDEX_DAMAGED');
  expect(await ensurePageIndex(file)).toBe(true);
  expect((await loadPageIndex(file)).digest).toBe(digest);

  await truncate(file.path, PAGES * 4096 - 4096);
  expect(await codeOf(loadPageIndex(file))).toBe('PAGES_INDEX_DAMAGED');
});

test('what an interrupted maker left goes with the next', async () => {
  await using dir = await tempDir();
  const file = await disk(dir);
  await writeFile(dir.file('a/.pages.idx-999999999-aa'), 'x');
  await writeFile(dir.file(`a/.pages.idx-${process.pid}-aa`), 'x');
  expect(await codeOf(makePageIndex(file, { signal: AbortSignal.abort() }))).not.toBe('none');
  expect(await readdir(dir.file('a'))).toEqual([`.pages.idx-${process.pid}-aa`, 'disk.raw']);
});

test('missing and damaged indexes are reported, and made in the background', async () => {
  await using dir = await tempDir();
  const missing = await disk(dir, 'missing');
  const damaged = await disk(dir, 'damaged');
  const good = await disk(dir, 'good');
  await makePageIndex(good);
  await makePageIndex(damaged);
  await flip(damaged.indexPath, 70);
  const warnings: string[] = [];
  const files = [missing, damaged, good];
  const loaded = await loadOrMakePageIndexes(files, (error) => warnings.push(error.code));
  expect(loaded.map(({ content }) => content)).toEqual([good]);
  expect(warnings).toEqual(['PAGES_INDEX_MISSING', 'PAGES_INDEX_DAMAGED']);
  for (const file of files) await until(async () => (await codeOf(loadPageIndex(file))) === 'none');

  // a file that cannot be indexed is one warning more
  const gone = contentOfDisk(dir.file('gone/disk.raw'));
  await loadOrMakePageIndexes([gone], (error) => warnings.push(error.code));
  await until(() => Promise.resolve(warnings.length === 4));
  expect(warnings.slice(2)).toEqual(['PAGES_INDEX_MISSING', 'PAGES_NOT_INDEXED']);
});

test('the reader gives pages by ordinal, across files, and names those that are not what they should be', async () => {
  await using dir = await tempDir();
  const first = await disk(dir, 'first');
  await mkdir(dir.file('second'));
  const second = contentOfDisk(dir.file('second/disk.raw'));
  await writeFile(second.path, Buffer.concat([Buffer.alloc(4096), body(5000), body(5001)]));
  await makePageIndex(first);
  await makePageIndex(second);
  const digests = await Promise.all([second, first].map(async (file) => (await loadPageIndex(file)).digest));
  // damaged after it was indexed: a flipped bit, and an end that is cut off
  await flip(first.path, 7 * 4096 + 4095);

  await using reader = await ContentReader.open([first, second], neverWarn);
  expect(reader.agree(['f'.repeat(64), ...digests, digests[0] ?? ''])).toEqual(digests);
  const ordinals = [2, 3, 4, 1, 0, 2 + 5, 2 + 6, 2 + 7, 2 + 8, 2 + PAGES, 2 ** 40, 20];
  const { bodies, missing } = await reader.read(Float64Array.from(ordinals));
  expect([...missing]).toEqual([7, 9, 10]);
  const bodyOf = (ordinal: number): Buffer => (ordinal < 2 ? body(5000 + ordinal) : body(ordinal - 2));
  for (const [i, ordinal] of ordinals.entries()) {
    if ([7, 9, 10].includes(i)) continue;
    expect(bodies.subarray(4096 * i, 4096 * (i + 1)).equals(bodyOf(ordinal)), `${i}`).toBe(true);
  }
  await truncate(first.path, 10 * 4096 + 1);
  const cut = await reader.read(Float64Array.from([2 + 8, 2 + 9, 2 + 10, 2 + 11]));
  expect([...cut.missing]).toEqual([2, 3]);
});

test('a thread that was started ahead reads as any other, once; one that is not needed ends', async () => {
  await using dir = await tempDir();
  const file = await disk(dir);
  await makePageIndex(file);
  ContentReader.startAhead();
  ContentReader.startAhead();
  for (let i = 0; i < 2; i++) {
    await using reader = await ContentReader.open([file], neverWarn);
    expect(reader.agree(reader.digests)).toHaveLength(1);
    const { bodies, missing } = await reader.read(Float64Array.of(5, 299));
    expect([...missing]).toEqual([]);
    expect(bodies.equals(Buffer.concat([body(5), body(299)]))).toBe(true);
  }
  ContentReader.startAhead();
  await ContentReader.endAhead();
  await using reader = await ContentReader.open([file], neverWarn);
  expect(reader.digests).toHaveLength(1);
});

test('a reader without anything, and one whose thread has ended, have nothing', async () => {
  await using dir = await tempDir();
  const warnings: string[] = [];
  const file = await disk(dir);
  const reader = await ContentReader.open([file], (error) => warnings.push(error.code));
  expect(warnings).toEqual(['PAGES_INDEX_MISSING']);
  expect(reader.agree(['a'.repeat(64)])).toEqual([]);
  expect([...(await reader.read(Float64Array.of(0))).missing]).toEqual([0]);
  const under = reader.read(Float64Array.of(1, 2, 3));
  await reader[Symbol.asyncDispose]();
  expect([...(await under).missing]).toEqual([0, 1, 2]);
  expect([...(await reader.read(Float64Array.of(4, 5))).missing]).toEqual([0, 1]);
  await until(async () => (await codeOf(loadPageIndex(file))) === 'none');
});

test('an image has its index from the day it is added, and takes it along to another store', async () => {
  await using dir = await tempDir();
  const file = await disk(dir);
  const store = await ImageStore.open(dir.file('one'));
  const image = await store.add({ name: 'x', disk: { path: file.path } });
  const index = await loadPageIndex(contentOfDisk(image.diskPath));
  expect(index).toMatchObject({ entries: PAGES, fileSha256: image.manifest.disk.sha256 });
  const staged = await stageImage(image, await ImageStore.open(dir.file('two')));
  expect((await loadPageIndex(contentOfDisk(staged.diskPath))).digest).toBe(index.digest);
});
