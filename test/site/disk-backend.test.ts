import { chmod, readFile, stat } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { run } from '../../src/base/process.ts';
import { diskBackend } from '../../src/site/vm/disk-backend.ts';
import { createQcow2 } from '../kit/qemu.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

let dir: TempDir;
beforeEach(async () => {
  dir = await tempDir();
});
afterEach(() => dir[Symbol.asyncDispose]());

const backingOf = async (path: string): Promise<unknown> => {
  const { stdout } = await run('qemu-img', ['info', '-U', '--output=json', path]);
  const { 'backing-filename': name, 'backing-filename-format': format } = JSON.parse(stdout) as Record<
    string,
    unknown
  >;
  return { name, format };
};

test('an overlay names the base of this site, and is not touched where it does so already', async () => {
  const overlay = dir.file('overlay.qcow2');
  const here = { path: '../images/here/disk.raw', format: 'raw' } as const;
  const there = { path: '../elsewhere/images/there/disk.raw', format: 'raw' } as const;
  await diskBackend.createQcow2(overlay, 1024 ** 2, here);
  const { mtimeMs } = await stat(overlay);
  await diskBackend.setBacking(overlay, here);
  expect((await stat(overlay)).mtimeMs).toBe(mtimeMs);
  await diskBackend.setBacking(overlay, there);
  expect(await backingOf(overlay)).toEqual({ name: there.path, format: 'raw' });

  // one that came by migration names none
  await createQcow2(dir.file('bare.qcow2'), 1024 ** 2);
  await diskBackend.setBacking(dir.file('bare.qcow2'), here);
  expect(await backingOf(dir.file('bare.qcow2'))).toEqual({ name: here.path, format: 'raw' });
});

test('a copy of a read-only overlay is writable, for the site’s user only, and replaces nothing', async () => {
  const from = dir.file('from.qcow2');
  await createQcow2(from, 1024 ** 2);
  await chmod(from, 0o400);
  await diskBackend.copy(from, dir.file('to.qcow2'));
  expect((await stat(dir.file('to.qcow2'))).mode & 0o777).toBe(0o600);
  expect((await readFile(dir.file('to.qcow2'))).equals(await readFile(from))).toBe(true);
  await expect(diskBackend.copy(from, dir.file('to.qcow2'))).rejects.toMatchObject({ code: 'EEXIST' });
});
