import { mkdir, readdir, readFile, truncate } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { type TempDir, tempDir } from '../../../test/kit/tempdir.ts';
import { PAGE_BYTES } from '../pages/constants.ts';
import { loadPageIndex } from '../pages/store.ts';
import { assembleLog } from './assemble.ts';
import { LOG_CHUNK_BYTES, LOG_CHUNKS_BUSY, LOG_CHUNKS_MAX, LOG_HOLD_MAX_MS } from './constants.ts';
import { ContentLog, LOG_NOTE, logFile, SECTORS_FILE } from './log.ts';

const CHUNK_PAGES = LOG_CHUNK_BYTES / PAGE_BYTES;

function page(seed: number): Buffer {
  const bytes = Buffer.alloc(PAGE_BYTES, seed & 0xff);
  bytes.writeUInt32LE(seed, 0);
  return bytes;
}

function openLog(dir: TempDir, name: string, maxBytes = 2 ** 40): { log: ContentLog; codes: string[] } {
  const codes: string[] = [];
  const log = new ContentLog({
    folder: dir.file(name),
    maxBytes,
    onGivenUp: ({ code }) => codes.push(code),
  });
  return { log, codes };
}

test('both ends come to the same file and index, whatever overtook what', async () => {
  await using dir = await tempDir();
  const ends = [];
  for (const name of ['source', 'target']) {
    const { log } = openLog(dir, name);
    await using _ = log;
    const memory = log.sink('memory');
    const urgent = log.sink('memory-urgent');
    const isSource = name === 'source';
    const sectors = isSource ? [3, 4, 5, 900, 0] : [0, 900, 4, 3, 4, 5, 900];
    for (const sector of sectors) log.put(sector, page(1000 + sector), 0);
    for (let i = 0; i < 3 * CHUNK_PAGES + 5; i++) {
      memory.add(Buffer.concat([page(0), page(i)]), PAGE_BYTES);
      if (i % 100 === 0) urgent.add(page(5000 + i), 0);
      // the target's streams come at other times
      if (!isSource && i % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await log.finish()).toBe(true);
    expect(await log.finish()).toBe(true);
    const content = await assembleLog(dir.file(name));
    if (!content) throw new Error('not whole');
    const bytes = await readFile(content.path);
    expect(bytes.length).toBe(content.bytes);
    ends.push({ bytes, digest: (await loadPageIndex(content)).digest });
    expect(bytes.readUInt32LE(7 * PAGE_BYTES)).toBe(7);
    expect((await readdir(dir.file(name))).sort()).toEqual(['disk.sectors', LOG_NOTE, 'pages', 'pages.idx']);
  }
  const [source, target] = ends;
  expect(source?.bytes.equals(target?.bytes ?? Buffer.alloc(0))).toBe(true);
  expect(source?.digest).toBe(target?.digest);
  const tail = [0, 3, 4, 5, 900].map((sector) => 1000 + sector);
  const last = source?.bytes.subarray(-tail.length * PAGE_BYTES);
  expect(tail.map((_, i) => last?.readUInt32LE(i * PAGE_BYTES))).toEqual(tail);
});

test('a log that is not finished leaves nothing', async () => {
  await using dir = await tempDir();
  {
    const { log } = openLog(dir, 'log');
    await using _ = log;
    for (let i = 0; i < 2 * CHUNK_PAGES; i++) log.sink('memory').add(page(i), 0);
  }
  expect(await readdir(dir.path)).toEqual([]);
});

test('more than it may take gives the log up, once', async () => {
  await using dir = await tempDir();
  const { log, codes } = openLog(dir, 'log', 3 * PAGE_BYTES);
  for (let i = 0; i < 6; i++) log.sink('memory').add(page(i), 0);
  log.put(1, page(1), 0);
  expect(codes).toEqual(['RESIDUE_LOG_FULL']);
  expect(log.isOpen).toBe(false);
  expect(await log.finish()).toBe(false);
  expect(await readdir(dir.path)).toEqual([]);
});

test('given up while its folder is still being made, it leaves nothing either', async () => {
  await using dir = await tempDir();
  const deep = 'deep/'.repeat(300);
  const { log } = openLog(dir, `${deep}log`);
  log.sink('memory').add(page(1), 0);
  log.giveUp();
  expect(await log.finish()).toBe(false);
  expect(await readdir(dir.file(deep))).toEqual([]);
});

test('a disk that does not keep up: bulk waits a little, then the log is given up with bounded memory', async () => {
  await using dir = await tempDir();
  const { log, codes } = openLog(dir, 'log');
  const sink = log.sink('memory');
  // nothing is written before this function lets the event loop run
  for (let i = 0; i < LOG_CHUNKS_BUSY * CHUNK_PAGES - 1; i++) sink.add(page(i), 0);
  expect(log.room()).toBeUndefined();
  sink.add(page(0), 0);
  const room = log.room();
  expect(room).toBeInstanceOf(Promise);
  for (let i = 0; i < (LOG_CHUNKS_MAX - LOG_CHUNKS_BUSY) * CHUNK_PAGES; i++) sink.add(page(i), 0);
  expect(codes).toEqual([]);
  sink.add(page(0), 0);
  expect(codes).toEqual(['RESIDUE_LOG_SLOW']);
  await room;
  expect(await log.finish()).toBe(false);
});

test('a disk that catches up', async () => {
  await using dir = await tempDir();
  const { log, codes } = openLog(dir, 'log');
  for (let i = 0; i < 4 * LOG_CHUNKS_MAX * CHUNK_PAGES; i++) {
    log.sink('memory').add(page(i), 0);
    if (i % 7 === 0) log.put(i, page(i), 0);
    // the pace of a test machine is no matter: what waits longer than LOG_HOLD_MAX_MS is the other test's
    await log.room();
  }
  expect([[], ['RESIDUE_LOG_SLOW']]).toContainEqual(codes);
  expect(await log.finish()).toBe(codes.length === 0);
  expect(LOG_HOLD_MAX_MS).toBeGreaterThan(0);
});

test('a folder that cannot be written', async () => {
  await using dir = await tempDir();
  const codes: string[] = [];
  const log = new ContentLog({
    folder: '/dev/null/log',
    maxBytes: 2 ** 30,
    onGivenUp: ({ code }) => codes.push(code),
  });
  log.sink('memory').add(page(1), 0);
  expect(await log.finish()).toBe(false);
  expect(codes).toEqual(['RESIDUE_LOG_FAILED']);
  await mkdir(dir.file('empty'));
  expect(await assembleLog(dir.file('empty'))).toBeUndefined();
});

test.each([
  ['a part that is cut off', (folder: string) => truncate(logFile(folder, 'memory'), PAGE_BYTES)],
  ['a part with more than was noted', (folder: string) => truncate(logFile(folder, 'disk'), 9 * PAGE_BYTES)],
  ['fewer numbers than sectors', (folder: string) => truncate(`${folder}/${SECTORS_FILE}`, 4)],
  ['a note that is no note', (folder: string) => truncate(`${folder}/${LOG_NOTE}`, 5)],
])('%s is no log', async (_, damage) => {
  await using dir = await tempDir();
  const { log } = openLog(dir, 'log');
  for (let i = 0; i < 5; i++) {
    log.sink('memory').add(page(i + 1), 0);
    log.put(i, page(i + 1), 0);
  }
  expect(await log.finish()).toBe(true);
  await damage(dir.file('log'));
  expect(await assembleLog(dir.file('log'))).toBeUndefined();
});

test('a log without a page is kept by nobody', async () => {
  await using dir = await tempDir();
  const { log } = openLog(dir, 'log');
  expect(await log.finish()).toBe(true);
  expect(await assembleLog(dir.file('log'))).toBeUndefined();
});
