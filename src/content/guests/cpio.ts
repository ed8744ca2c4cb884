import { posix } from 'node:path';

/** What goes into an initial RAM disk. Owners are root; time stamps are zero. */
export type CpioEntry = { readonly path: string } & (
  | { readonly kind: 'folder'; readonly mode?: number }
  | { readonly kind: 'file'; readonly data: Buffer; readonly mode?: number }
  | { readonly kind: 'link'; readonly target: string }
  | { readonly kind: 'device'; readonly major: number; readonly minor: number; readonly mode?: number }
);

const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const HEADER_BYTES = 110;
const BLOCK_BYTES = 512;

/**
 * A cpio archive in the "newc" format (initramfs buffer format: Documentation/driver-api/early-userspace of Linux).
 * Folders that entries need are added; equal entries give equal bytes. A path may appear once.
 */
export function cpioArchive(entries: readonly CpioEntry[]): Buffer {
  const parts: Buffer[] = [];
  const seen = new Set<string>();
  let inode = 1;
  const record = (
    name: string,
    mode: number,
    data: Buffer = Buffer.alloc(0),
    device: readonly [number, number] = [0, 0],
  ) => {
    const nameBytes = Buffer.from(`${name}\0`);
    const fields = [inode++, mode, 0, 0, 1, 0, data.length, 0, 0, ...device, nameBytes.length, 0];
    const header = `070701${fields.map((n) => n.toString(16).padStart(8, '0').toUpperCase()).join('')}`;
    const head = Buffer.concat([Buffer.from(header, 'latin1'), nameBytes]);
    parts.push(head, padding(head.length), data, padding(data.length));
  };
  const folderOf = (path: string) => {
    const above = posix.dirname(path);
    if (above === '.' || seen.has(above)) return;
    folderOf(above);
    seen.add(above);
    record(above, S_IFDIR | 0o755);
  };
  for (const entry of entries) {
    if (entry.path === '' || entry.path.startsWith('/') || entry.path.split('/').includes('..')) {
      throw new TypeError(`cpio: ${entry.path} is no relative path`);
    }
    if (seen.has(entry.path)) throw new TypeError(`cpio: ${entry.path} appears twice`);
    folderOf(entry.path);
    seen.add(entry.path);
    switch (entry.kind) {
      case 'folder':
        record(entry.path, S_IFDIR | (entry.mode ?? 0o755));
        break;
      case 'file':
        record(entry.path, S_IFREG | (entry.mode ?? 0o644), entry.data);
        break;
      case 'link':
        record(entry.path, S_IFLNK | 0o777, Buffer.from(entry.target));
        break;
      case 'device':
        record(entry.path, S_IFCHR | (entry.mode ?? 0o600), undefined, [entry.major, entry.minor]);
        break;
    }
  }
  inode = 0;
  record('TRAILER!!!', 0);
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  parts.push(Buffer.alloc((BLOCK_BYTES - (length % BLOCK_BYTES)) % BLOCK_BYTES));
  return Buffer.concat(parts);
}

function padding(length: number): Buffer {
  return Buffer.alloc((4 - (length % 4)) % 4);
}

/** Reads an archive back (for tests and for looking into one): path, mode and data of each entry. */
export function readCpio(archive: Buffer): readonly { path: string; mode: number; data: Buffer }[] {
  const entries: { path: string; mode: number; data: Buffer }[] = [];
  let at = 0;
  while (at + HEADER_BYTES <= archive.length) {
    if (archive.toString('latin1', at, at + 6) !== '070701') throw new TypeError(`cpio: no header at ${at}`);
    const start = at;
    const field = (index: number) =>
      Number.parseInt(archive.toString('latin1', start + 6 + 8 * index, start + 14 + 8 * index), 16);
    const nameEnd = at + HEADER_BYTES + field(11);
    const path = archive.toString('utf8', at + HEADER_BYTES, nameEnd - 1);
    const dataStart = nameEnd + padding(nameEnd - at).length;
    const data = archive.subarray(dataStart, dataStart + field(6));
    if (path === 'TRAILER!!!') return entries;
    entries.push({ path, mode: field(1), data });
    at = dataStart + data.length + padding(data.length).length;
  }
  throw new TypeError('cpio: no end');
}
