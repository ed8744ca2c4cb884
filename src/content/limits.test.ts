import { mkdir, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { tempDir } from '../../test/kit/tempdir.ts';
import { MAX_BOOT_FILE_BYTES, MAX_MANIFEST_BYTES, MIN_DIGEST_PREFIX_LENGTH } from './images/constants.ts';
import { ImageStore } from './images/store.ts';

test('the largest kernel or initial RAM disk', async () => {
  await using dir = await tempDir();
  const store = await ImageStore.open(dir.file('images'));
  await writeFile(dir.file('disk.raw'), Buffer.alloc(4096));
  await writeFile(dir.file('kernel'), 'kernel');
  await truncate(dir.file('kernel'), MAX_BOOT_FILE_BYTES + 1);
  const adding = store.add({ name: 'a', disk: { path: dir.file('disk.raw') }, kernel: dir.file('kernel') });
  await expect(adding).rejects.toMatchObject({ code: 'IMAGE_TOO_LARGE' });
});

test('a manifest that is too long, and a prefix that is too short', async () => {
  await using dir = await tempDir();
  const store = await ImageStore.open(dir.file('images'));
  const digest = 'ab'.repeat(32);
  await mkdir(join(store.folder, digest));
  await writeFile(join(store.folder, digest, 'manifest.json'), ' '.repeat(MAX_MANIFEST_BYTES + 1));
  await expect(store.get(digest)).rejects.toMatchObject({
    code: 'IMAGE_CORRUPT',
    message: expect.stringContaining(`${MAX_MANIFEST_BYTES + 1} bytes`),
  });
  await expect(store.get(digest.slice(0, MIN_DIGEST_PREFIX_LENGTH - 1))).rejects.toMatchObject({
    code: 'IMAGE_UNKNOWN',
  });
});
