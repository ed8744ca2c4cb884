import { writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { tempDir } from '../../test/kit/tempdir.ts';
import { checkOverlay } from './overlay-header.ts';

function header(change: (header: Buffer) => void = () => {}): Buffer {
  const bytes = Buffer.alloc(512);
  bytes.write('QFI\u00fb', 'latin1');
  bytes.writeUInt32BE(3, 4);
  bytes.writeUInt32BE(16, 20);
  bytes.writeBigUInt64BE(1_048_576n, 24);
  change(bytes);
  return bytes;
}

test('a plain overlay is taken', async () => {
  await using dir = await tempDir();
  await writeFile(dir.file('o'), header());
  const found = { version: 3, virtualBytes: 1_048_576, clusterBytes: 65_536 };
  expect(await checkOverlay(dir.file('o'), 1_048_576)).toEqual(found);
  expect(await checkOverlay(dir.file('o'), undefined)).toEqual(found);
});

test.each([
  ['no qcow2 file', Buffer.alloc(512)],
  ['empty', Buffer.alloc(0)],
  ['of another size', header((h) => h.writeBigUInt64BE(512n, 24))],
  ['of an unknown version', header((h) => h.writeUInt32BE(4, 4))],
  ['with absurd clusters', header((h) => h.writeUInt32BE(63, 20))],
  ['encrypted', header((h) => h.writeUInt32BE(2, 32))],
  ['with its data elsewhere', header((h) => h.writeBigUInt64BE(4n, 72))],
  ['marked corrupt', header((h) => h.writeBigUInt64BE(2n, 72))],
])('one that is %s is refused', async (_, bytes) => {
  await using dir = await tempDir();
  await writeFile(dir.file('o'), bytes);
  const refusal = expect.objectContaining({ code: 'QEMU_OVERLAY_INVALID' });
  await expect(checkOverlay(dir.file('o'), 1_048_576)).rejects.toEqual(refusal);
});
