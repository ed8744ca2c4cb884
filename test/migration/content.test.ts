import { chmod, copyFile, mkdir, open, readFile, rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  type ContentFile,
  contentOfDisk,
  loadPageIndex,
  makePageIndex,
} from '../../src/content/pages/store.ts';
import type { MigrationRecord } from '../../src/migration/record.ts';
import { type MigrateOptions, MoverLab, type Place } from '../kit/moverLab.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

let dir: TempDir;
let lab: MoverLab;
let place: Place;

beforeAll(async () => {
  dir = await tempDir();
  lab = await MoverLab.create(dir);
  await makePageIndex(contentOfDisk(lab.image.diskPath));
  place = await lab.boot('center');
  await place.workload.command('start disk=60 mem=400');
});
afterAll(async () => {
  await lab?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

/** What another site has of the image: a copy of disk and index. */
async function copyOfContent(name: string): Promise<ContentFile> {
  await mkdir(dir.file(name));
  const from = contentOfDisk(lab.image.diskPath);
  const to = contentOfDisk(dir.file(`${name}/disk.raw`));
  await copyFile(from.path, to.path);
  await copyFile(from.indexPath, to.indexPath);
  await chmod(to.path, 0o644);
  await chmod(to.indexPath, 0o644);
  return to;
}

async function move(
  targetContent: readonly ContentFile[],
  change: MigrateOptions['change'] = {},
): Promise<{ record: MigrationRecord; log: string }> {
  const migration = await lab.migrate(place, {
    change: { memoryCodec: 'content', ...change },
    targetContent,
    link: { rateMbit: 400, rttMs: 4 },
  });
  const { place: arrived, record } = await migration.finish();
  place = arrived;
  const answer = await place.workload.command('verify');
  expect(answer.line).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
  expect(record).toMatchObject({ ok: true, integrity: { bad: 0 } });
  return { record, log: await readFile(`${migration.targetDir}/mover.log`, 'utf8') };
}

test('what the base image holds is not sent, nor what was sent before', async () => {
  const { record } = await move([await copyOfContent('good')]);
  expect(record.pages.referenced).toBeGreaterThan(0);
  expect(record.codecLevel).not.toBeNull();
  expect(record.pages.repeated).toBeGreaterThan(0);
  expect(record.pages.resent).toBe(0);
});

test('pages that are damaged at the target are sent after all, and the VM is right', async () => {
  const content = await copyOfContent('damaged');
  const { pages } = await loadPageIndex(content);
  await using file = await open(content.path, 'r+');
  for (const page of pages) await file.write(Buffer.from([page & 0xff, 0xa5]), 0, 2, page * 4096 + 100);
  const { record, log } = await move([content]);
  expect(log).toContain('PAGES_CONTENT_DAMAGED');
  expect(record.pages.resent).toBeGreaterThan(0);
  expect(record.pages.resent).toBeLessThanOrEqual(record.pages.referenced);
});

test('a base image that is cut off', async () => {
  const content = await copyOfContent('short');
  await rm(content.path);
  const { record, log } = await move([content]);
  expect(log).toContain('PAGES_INDEX_DAMAGED');
  expect(record.pages).toMatchObject({ referenced: 0, resent: 0 });
});

test('a target without an index, and one with another file: everything is sent, and the index is made', async () => {
  const missing = await copyOfContent('missing');
  await rm(missing.indexPath);
  const { record, log } = await move([missing]);
  expect(log).toContain('PAGES_INDEX_MISSING');
  expect(record.pages.referenced).toBe(0);
  expect((await loadPageIndex(missing)).digest).toBe(
    (await loadPageIndex(contentOfDisk(lab.image.diskPath))).digest,
  );

  const other = await copyOfContent('other');
  await using file = await open(other.path, 'r+');
  await file.write(Buffer.from('something else'), 0, 14, 4096);
  await rm(other.indexPath);
  await makePageIndex(other);
  expect((await move([other, missing])).record.pages.referenced).toBeGreaterThan(0);
  expect((await move([other])).record.pages.referenced).toBe(0);
});

/** The overlay as it is now, at another site and indexed. */
async function copyOfOverlay(name: string): Promise<ContentFile> {
  await mkdir(dir.file(name));
  const copy = contentOfDisk(dir.file(`${name}/disk.raw`));
  await copyFile(place.overlayPath, copy.path);
  await makePageIndex(copy);
  return copy;
}

test('blocks of the overlay that the target has are not sent, whatever the codec of memory', async () => {
  const overlay = await copyOfOverlay('overlay');
  const { record } = await move([overlay], {
    memoryCodec: 'rle',
    diskCodec: 'content',
    content: [overlay],
  });
  expect(record.codecs).toEqual({ memory: 'rle', disk: 'content+zstd' });
  const { referenced, total } = record.blocks;
  expect(referenced).toBeGreaterThan(0);
  expect(record.bytes.disk).toBeLessThan((total - referenced) * 4096);
  expect(record.pages).toMatchObject({ referenced: 0, repeated: 0 });
});

test('blocks that are damaged at the target are sent after all', async () => {
  const overlay = await copyOfOverlay('overlay-good');
  await mkdir(dir.file('overlay-bad'));
  const bad = contentOfDisk(dir.file('overlay-bad/disk.raw'));
  await copyFile(overlay.path, bad.path);
  await copyFile(overlay.indexPath, bad.indexPath);
  const { pages } = await loadPageIndex(bad);
  await using file = await open(bad.path, 'r+');
  for (const page of pages.filter((_, i) => i % 300 === 7))
    await file.write(Buffer.from([page & 0xff, 0xa5]), 0, 2, page * 4096 + 100);
  const { record } = await move([bad], { diskCodec: 'content', content: [overlay] });
  expect(record.blocks.referenced).toBeGreaterThan(0);
  expect(record.blocks.referenced).toBeLessThan(record.blocks.total);
});
