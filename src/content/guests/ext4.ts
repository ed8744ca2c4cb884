import { open, rm, truncate } from 'node:fs/promises';
import { GUEST_EPOCH_S, GUEST_FILESYSTEM_UUID } from './constants.ts';
import { fail } from './errors.ts';
import { runStep } from './steps.ts';

/** Features that only a machine which crashes and recovers needs, or that make inodes depend on the build. */
const FEATURES = '^has_journal,^metadata_csum,^64bit,^orphan_file';

/**
 * An ext4 file system holding the tree `root`, made without mounting and without rights; everything in it belongs
 * to root and no time stamp is later than GUEST_EPOCH_S, so equal trees give equal bytes (mke2fs sorts by name).
 * @throws GUEST_TOOL, GUEST_STEP (also when the tree does not fit)
 */
export async function makeExt4(
  root: string,
  target: string,
  sizeBytes: number,
  signal?: AbortSignal,
): Promise<void> {
  await rm(target, { force: true });
  const extended = `hash_seed=${GUEST_FILESYSTEM_UUID},lazy_itable_init=0,nodiscard,root_owner=0:0`;
  await runStep(
    'mke2fs',
    `-q -F -t ext4 -O ${FEATURES} -m 0 -b 4096 -I 256 -L guest -U ${GUEST_FILESYSTEM_UUID} -E ${extended} -d`
      .split(' ')
      .concat(root, target, `${Math.floor(sizeBytes / 1024)}k`),
    { signal, env: { E2FSPROGS_FAKE_TIME: String(GUEST_EPOCH_S), SOURCE_DATE_EPOCH: String(GUEST_EPOCH_S) } },
  );
  await truncate(target, sizeBytes);
  await normaliseInodes(target);
}

const SUPERBLOCK_AT = 1024;
const MAGIC = 0xef53;
const INCOMPAT_64BIT = 0x80;
const RO_COMPAT_METADATA_CSUM = 0x400;
const DESCRIPTOR_BYTES = 32;
/** Offsets of 32-bit fields of an inode of 256 bytes (ext4 disk layout: Documentation/filesystems/ext4/inodes.rst of Linux). */
const TIMES = [0x08, 0x0c, 0x90];
const MTIME = 0x10;
const SUBSECOND_TIMES = [0x84, 0x88, 0x8c, 0x94];

/** Sets owner, access, change and birth time of every inode in use; a later modification time becomes the epoch. */
async function normaliseInodes(path: string): Promise<void> {
  const image = await open(path, 'r+');
  try {
    const superblock = Buffer.alloc(1024);
    await image.read(superblock, 0, 1024, SUPERBLOCK_AT);
    const blockBytes = 1024 << superblock.readUInt32LE(24);
    const inodeBytes = superblock.readUInt16LE(88);
    const perGroup = superblock.readUInt32LE(40);
    const total = superblock.readUInt32LE(0);
    const incompatible = superblock.readUInt32LE(96);
    const readOnlyCompatible = superblock.readUInt32LE(100);
    const expected =
      superblock.readUInt16LE(56) === MAGIC &&
      inodeBytes === 256 &&
      (incompatible & INCOMPAT_64BIT) === 0 &&
      (readOnlyCompatible & RO_COMPAT_METADATA_CSUM) === 0;
    if (!expected) throw fail('GUEST_STEP', 'mke2fs made a file system with other features than asked for');
    const groups = Math.ceil(total / perGroup);
    const descriptors = Buffer.alloc(groups * DESCRIPTOR_BYTES);
    await image.read(descriptors, 0, descriptors.length, (superblock.readUInt32LE(20) + 1) * blockBytes);
    const table = Buffer.alloc(perGroup * inodeBytes);
    for (let group = 0; group < groups; group++) {
      const at = descriptors.readUInt32LE(group * DESCRIPTOR_BYTES + 8) * blockBytes;
      await image.read(table, 0, table.length, at);
      for (let inode = 0; inode < perGroup; inode++) {
        normaliseInode(table.subarray(inode * inodeBytes, (inode + 1) * inodeBytes));
      }
      await image.write(table, 0, table.length, at);
    }
  } finally {
    await image.close();
  }
}

function normaliseInode(inode: Buffer): void {
  const links = inode.readUInt16LE(0x1a);
  if (inode.readUInt16LE(0) === 0 && links === 0) return;
  inode.writeUInt16LE(0, 0x02); // owner, low and high half
  inode.writeUInt16LE(0, 0x78);
  inode.writeUInt16LE(0, 0x18); // group, low and high half
  inode.writeUInt16LE(0, 0x7a);
  for (const at of TIMES) inode.writeUInt32LE(GUEST_EPOCH_S, at);
  if (inode.readUInt32LE(MTIME) > GUEST_EPOCH_S) inode.writeUInt32LE(GUEST_EPOCH_S, MTIME);
  for (const at of SUBSECOND_TIMES) inode.writeUInt32LE(0, at);
}
