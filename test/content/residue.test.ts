import { execFileSync } from 'node:child_process';
import { mkdir, readdir } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { PAGE_BYTES } from '../../src/content/pages/constants.ts';
import { ContentLog } from '../../src/content/residue/log.ts';
import { ResidueStore } from '../../src/content/residue/store.ts';
import { tempDir } from '../kit/tempdir.ts';

/** A file system of 1 MiB; undefined where this user may not mount one. */
function smallDisk(path: string): Disposable | undefined {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', path], { stdio: 'ignore' });
  } catch {
    return undefined;
  }
  return { [Symbol.dispose]: () => execFileSync('umount', [path]) };
}

function addPages(log: ContentLog, count: number): void {
  const page = Buffer.alloc(PAGE_BYTES, 1);
  for (let i = 0; i < count; i++) {
    page.writeUInt32LE(i, 0);
    log.sink('memory').add(page, 0);
  }
}

test('a full disk gives the log up and leaves nothing on it; what is whole is not kept beyond its share', async (context) => {
  await using dir = await tempDir();
  await mkdir(dir.file('disk'));
  using disk = smallDisk(dir.file('disk'));
  if (!disk) {
    context.skip();
    return;
  }
  const codes: string[] = [];
  const onGivenUp = ({ code }: { code: string }): void => void codes.push(code);
  const log = new ContentLog({ folder: dir.file('disk/log'), maxBytes: 2 ** 30, onGivenUp });
  addPages(log, 512);
  expect(await log.finish()).toBe(false);
  expect(codes).toEqual(['RESIDUE_LOG_FAILED']);
  expect(await readdir(dir.file('disk'))).toEqual([]);

  const store = new ResidueStore({ folder: dir.file('disk/residue'), maxBytes: 2 ** 30 });
  const options = await store.logFor('mig-1');
  expect(options?.maxBytes).toBeLessThan(1024 * 1024);
  const whole = new ContentLog({ folder: options?.folder ?? '', maxBytes: 2 ** 30, onGivenUp });
  addPages(whole, 128);
  expect(await whole.finish()).toBe(true);
  await expect(store.keep('mig-1', { id: 'vm-1', name: 'vm', leftTo: 'ap1' })).rejects.toMatchObject({
    code: 'RESIDUE_NOT_KEPT',
  });
  expect(await readdir(dir.file('disk/residue'))).toEqual([]);
});
