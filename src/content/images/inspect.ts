import { dirname, isAbsolute, resolve } from 'node:path';
import { MAX_BACKING_DEPTH, MAX_BACKING_NAME_BYTES, MAX_VIRTUAL_SIZE_BYTES } from './constants.ts';
import { fail } from './errors.ts';
import { openRegular } from './files.ts';

/** What the first bytes of a disk image say. Read by us, so that no tool ever opens what a hostile header names. */
export interface DiskHeader {
  readonly format: 'raw' | 'qcow2';
  readonly virtualSizeBytes: number;
  /** The backing file's name as the header has it. */
  readonly backing?: string;
}

const QCOW2_MAGIC = 0x514649fb;
const QCOW2_V2_HEADER_BYTES = 72;
const QCOW2_V3_HEADER_BYTES = 104;
const INCOMPATIBLE_CORRUPT = 2n;
const INCOMPATIBLE_DATA_FILE = 4n;
const HEAD_BYTES = 4096;

/** First bytes of formats that would otherwise pass for a raw disk. */
const OTHER_FORMATS: readonly (readonly [name: string, magic: Buffer, offset: number])[] = [
  ['VMDK', Buffer.from('KDMV'), 0],
  ['VMDK', Buffer.from('COWD'), 0],
  ['VHDX', Buffer.from('vhdxfile'), 0],
  ['VHD', Buffer.from('conectix'), 0],
  ['VDI', Buffer.from([0x7f, 0x10, 0xda, 0xbe]), 0x40],
  ['QED', Buffer.from('QED\0'), 0],
  ['gzip', Buffer.from([0x1f, 0x8b]), 0],
  ['xz', Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a]), 0],
  ['zstd', Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), 0],
  ['ELF', Buffer.from([0x7f, 0x45, 0x4c, 0x46]), 0],
  ['zip', Buffer.from('PK\x03\x04', 'latin1'), 0],
];

/**
 * Reads and judges the header of a disk image (qcow2 specification: docs/interop/qcow2.txt of QEMU).
 * @throws IMAGE_MISSING_FILE, IMAGE_NOT_AN_IMAGE, IMAGE_FORMAT, IMAGE_TOO_LARGE, IMAGE_CORRUPT
 */
export async function inspectDisk(path: string, forced?: 'raw' | 'qcow2'): Promise<DiskHeader> {
  const { file, sizeBytes } = await openRegular(path);
  try {
    const head = Buffer.alloc(HEAD_BYTES);
    const { bytesRead } = await file.read(head, 0, HEAD_BYTES, 0);
    const isQcow2 = bytesRead >= QCOW2_V2_HEADER_BYTES && head.readUInt32BE(0) === QCOW2_MAGIC;
    if (forced === 'qcow2' && !isQcow2) throw fail('IMAGE_NOT_AN_IMAGE', `${path} has no qcow2 header`);
    if (isQcow2 && forced !== 'raw') {
      const header = parseQcow2(head.subarray(0, bytesRead), path);
      if (header.backing.length === 0) return { format: 'qcow2', virtualSizeBytes: header.virtualSizeBytes };
      const name = Buffer.alloc(header.backing.length);
      const got = await file.read(name, 0, name.length, header.backing.offset);
      if (got.bytesRead !== name.length)
        throw fail('IMAGE_CORRUPT', `${path}: the backing name lies outside`);
      const { virtualSizeBytes } = header;
      return { format: 'qcow2', virtualSizeBytes, backing: name.toString('utf8') };
    }
    if (sizeBytes === 0 || sizeBytes % 512 !== 0) {
      throw fail('IMAGE_NOT_AN_IMAGE', `${path}: ${sizeBytes} bytes is no whole number of sectors`);
    }
    if (forced !== 'raw') {
      const other = OTHER_FORMATS.find(([, magic, at]) => head.subarray(at, at + magic.length).equals(magic));
      if (other) throw fail('IMAGE_FORMAT', `${path} looks like ${other[0]}`, { fields: { path } });
    }
    if (sizeBytes > MAX_VIRTUAL_SIZE_BYTES) throw tooLarge(path, sizeBytes);
    return { format: 'raw', virtualSizeBytes: sizeBytes };
  } finally {
    await file.close();
  }
}

function parseQcow2(
  head: Buffer,
  path: string,
): { virtualSizeBytes: number; backing: { offset: number; length: number } } {
  const version = head.readUInt32BE(4);
  if (version !== 2 && version !== 3) throw fail('IMAGE_FORMAT', `${path}: qcow2 version ${version}`);
  if (version === 3 && head.length < QCOW2_V3_HEADER_BYTES) {
    throw fail('IMAGE_CORRUPT', `${path}: the header is cut off`);
  }
  const backingOffset = head.readBigUInt64BE(8);
  const length = head.readUInt32BE(16);
  const clusterBits = head.readUInt32BE(20);
  const size = head.readBigUInt64BE(24);
  const encryption = head.readUInt32BE(32);
  const incompatible = version === 3 ? head.readBigUInt64BE(72) : 0n;
  if (clusterBits < 9 || clusterBits > 21)
    throw fail('IMAGE_CORRUPT', `${path}: cluster_bits ${clusterBits}`);
  if (encryption !== 0) throw fail('IMAGE_FORMAT', `${path} is encrypted`);
  if ((incompatible & INCOMPATIBLE_DATA_FILE) !== 0n) {
    throw fail('IMAGE_FORMAT', `${path} keeps its data in another file`);
  }
  if ((incompatible & INCOMPATIBLE_CORRUPT) !== 0n) {
    throw fail('IMAGE_CORRUPT', `${path}: its header says so`);
  }
  if (size > BigInt(MAX_VIRTUAL_SIZE_BYTES)) throw tooLarge(path, Number(size));
  if (size === 0n || size % 512n !== 0n)
    throw fail('IMAGE_NOT_AN_IMAGE', `${path}: its disk has ${size} bytes`);
  if (backingOffset === 0n) return { virtualSizeBytes: Number(size), backing: { offset: 0, length: 0 } };
  // The specification puts the name into the first cluster.
  if (
    length === 0 ||
    length > MAX_BACKING_NAME_BYTES ||
    backingOffset + BigInt(length) > 1n << BigInt(clusterBits)
  ) {
    throw fail('IMAGE_CORRUPT', `${path}: the backing name lies outside the first cluster`);
  }
  return { virtualSizeBytes: Number(size), backing: { offset: Number(backingOffset), length } };
}

function tooLarge(path: string, sizeBytes: number) {
  return fail('IMAGE_TOO_LARGE', `${path}: a disk of ${sizeBytes} bytes`, {
    fields: { path, sizeBytes, limitBytes: MAX_VIRTUAL_SIZE_BYTES },
  });
}

/**
 * Every layer below `path`, the nearest first; each is judged like an image of its own.
 * @throws as inspectDisk, and IMAGE_BACKING_UNSAFE for `json:`, `nbd:` and the like and for chains without end
 */
export async function backingChain(path: string, header: DiskHeader): Promise<readonly string[]> {
  const chain: string[] = [];
  let layer = { path, header };
  while (layer.header.backing !== undefined) {
    const { backing } = layer.header;
    if (/^[A-Za-z0-9+.-]+:/.test(backing) || backing.includes('\0')) {
      throw fail('IMAGE_BACKING_UNSAFE', JSON.stringify(backing));
    }
    if (chain.length === MAX_BACKING_DEPTH) {
      throw fail('IMAGE_BACKING_UNSAFE', `more than ${MAX_BACKING_DEPTH} layers`);
    }
    const below = isAbsolute(backing) ? backing : resolve(dirname(layer.path), backing);
    layer = { path: below, header: await inspectDisk(below) };
    chain.push(below);
  }
  return chain;
}
