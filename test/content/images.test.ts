import { execFileSync } from 'node:child_process';
import { chmod, mkdtemp, open, readdir, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canonicalJson } from '../../src/content/images/manifest.ts';
import { ImageStore } from '../../src/content/images/store.ts';

const MIB = 1024 * 1024;
let folder: string;
let store: ImageStore;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cloudap-images-'));
  store = await ImageStore.open(join(folder, 'store'));
});
afterEach(() => rm(folder, { recursive: true }));

const at = (name: string) => join(folder, name);
const qemuImg = (...args: string[]) => execFileSync('qemu-img', args, { stdio: 'pipe' });

async function rawDisk(name: string, fill = 1): Promise<string> {
  await writeFile(at(name), Buffer.alloc(64 * 1024, fill));
  await truncate(at(name), 4 * MIB);
  return at(name);
}
async function patch(path: string, offset: number, bytes: Buffer): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(bytes, 0, bytes.length, offset);
  await file.close();
}
function u64(value: bigint): Buffer {
  const out = Buffer.alloc(8);
  out.writeBigUInt64BE(value);
  return out;
}

describe('ImageStore', () => {
  it('takes in a raw disk with a kernel, finds it by name, digest and prefix, and removes it', async () => {
    await writeFile(at('kernel'), 'kernel');
    await writeFile(at('initrd'), 'initrd');
    const steps = new Set<string>();
    const image = await store.add(
      {
        name: 'web',
        disk: { path: await rawDisk('disk') },
        kernel: at('kernel'),
        initrd: at('initrd'),
        commandLine: 'console=ttyS0',
        defaults: { memoryMiB: 256 },
      },
      { onProgress: ({ step }) => steps.add(step) },
    );
    expect(steps).toEqual(new Set(['copy', 'index']));
    expect(image.manifest).toMatchObject({
      name: 'web',
      disk: { format: 'raw', virtualSizeBytes: 4 * MIB, fileBytes: 4 * MIB },
      defaults: { memoryMiB: 256, cpus: 1, display: 'vga', input: 'tablet' },
      commandLine: 'console=ttyS0',
    });
    expect((await readFile(image.diskPath)).equals(await readFile(at('disk')))).toBe(true);
    const { digest } = image.manifest;
    for (const reference of ['web', digest, digest.slice(0, 8)]) {
      expect((await store.get(reference)).manifest).toEqual(image.manifest);
    }
    expect(await store.list()).toHaveLength(1);
    await store.verify('web');
    await expect(store.remove('web', () => ['vm-1'])).rejects.toMatchObject({ code: 'IMAGE_IN_USE' });
    await store.remove('web');
    expect(await readdir(store.folder)).toEqual([]);
    await expect(store.get('web')).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
    await expect(store.get(digest)).rejects.toMatchObject({ code: 'IMAGE_UNKNOWN' });
  });

  it('knows equal content again and keeps different content apart', async () => {
    const first = await store.add({ name: 'a', disk: { path: await rawDisk('disk') } });
    expect((await store.add({ name: 'a', disk: { path: at('disk') } })).manifest).toEqual(first.manifest);
    await expect(store.add({ name: 'b', disk: { path: at('disk') } })).rejects.toMatchObject({
      code: 'IMAGE_EXISTS',
    });
    const second = await store.add({ name: 'a', disk: { path: await rawDisk('other', 2) } });
    expect(second.manifest.digest).not.toBe(first.manifest.digest);
    expect(await store.list()).toHaveLength(2);
    expect(canonicalJson({ b: [1, { d: 1, c: undefined }], a: 'x' })).toBe('{"a":"x","b":[1,{"d":1}]}');
  });

  it('finds damage', async () => {
    const image = await store.add({ name: 'a', disk: { path: await rawDisk('disk') } });
    await chmod(image.diskPath, 0o644);
    await patch(image.diskPath, 1000, Buffer.from('x'));
    await expect(store.verify('a')).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
    await rm(image.diskPath);
    await expect(store.verify('a')).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
    const manifest = join(image.folder, 'manifest.json');
    await rm(manifest);
    await writeFile(manifest, '{"version":1}');
    await expect(store.get(image.manifest.digest)).rejects.toMatchObject({ code: 'IMAGE_CORRUPT' });
    expect(await store.list()).toEqual([]);
  });

  it('takes a qcow2 as it is, and flattens a chain only when told', async () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-b', await rawDisk('disk'), '-F', 'raw', at('top.qcow2'));
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 7 1M 64k', at('top.qcow2')]);
    const disk = { path: at('top.qcow2') };
    await expect(store.add({ name: 'a', disk })).rejects.toMatchObject({ code: 'IMAGE_HAS_BACKING' });
    const image = await store.add({ name: 'a', disk: { ...disk, flatten: true } });
    expect(image.manifest.disk.format).toBe('qcow2');
    qemuImg('compare', '-f', 'qcow2', '-F', 'qcow2', at('top.qcow2'), image.diskPath);
    expect(qemuImg('info', '--output=json', image.diskPath).toString()).not.toContain('backing');
    const plain = await store.add({ name: 'b', disk: { path: await qcow2('plain.qcow2') } });
    expect(plain.manifest.disk).toMatchObject({ format: 'qcow2', virtualSizeBytes: 4 * MIB });
  });

  it('refuses what is no image or no safe one', async () => {
    const code = async (path: string, flatten = false) =>
      store.add({ name: 'x', disk: { path, flatten } }).then(
        () => 'none',
        (error: { code?: string }) => error.code,
      );
    expect(await code(at('missing'))).toBe('IMAGE_MISSING_FILE');
    expect(await code(folder)).toBe('IMAGE_MISSING_FILE');
    await writeFile(at('text'), 'hello');
    expect(await code(at('text'))).toBe('IMAGE_NOT_AN_IMAGE');
    await writeFile(at('empty'), '');
    expect(await code(at('empty'))).toBe('IMAGE_NOT_AN_IMAGE');
    qemuImg('create', '-q', '-f', 'vmdk', at('disk.vmdk'), '1M');
    await truncate(at('disk.vmdk'), MIB);
    expect(await code(at('disk.vmdk'))).toBe('IMAGE_FORMAT');
    await rawDisk('huge');
    await truncate(at('huge'), 3 * 1024 ** 4);
    expect(await code(at('huge'))).toBe('IMAGE_TOO_LARGE');

    const hostile = await qcow2('hostile.qcow2');
    const good = await readFile(hostile);
    const withHeader = async (offset: number, bytes: Buffer) => {
      await writeFile(hostile, good);
      await patch(hostile, offset, bytes);
    };
    await withHeader(24, u64(1n << 62n));
    expect(await code(hostile)).toBe('IMAGE_TOO_LARGE');
    await withHeader(72, u64(4n));
    expect(await code(hostile)).toBe('IMAGE_FORMAT');
    await withHeader(72, u64(2n));
    expect(await code(hostile)).toBe('IMAGE_CORRUPT');
    await withHeader(32, Buffer.from([0, 0, 0, 1]));
    expect(await code(hostile)).toBe('IMAGE_FORMAT');
    await withHeader(4, Buffer.from([0, 0, 0, 9]));
    expect(await code(hostile)).toBe('IMAGE_FORMAT');
    await withHeader(8, u64(1n << 40n));
    await patch(hostile, 16, Buffer.from([0, 0, 0, 9]));
    expect(await code(hostile)).toBe('IMAGE_CORRUPT');
    for (const [name, expected] of [
      ['json:{"driver":"null-co"}', 'IMAGE_BACKING_UNSAFE'],
      ['nbd:unix:/nowhere', 'IMAGE_BACKING_UNSAFE'],
      ['/etc/hostname', 'IMAGE_NOT_AN_IMAGE'],
      ['none.raw', 'IMAGE_MISSING_FILE'],
      ['hostile.qcow2', 'IMAGE_BACKING_UNSAFE'],
    ] as const) {
      await withHeader(8, u64(1024n));
      const length = Buffer.alloc(4);
      length.writeUInt32BE(name.length);
      await patch(hostile, 16, length);
      await patch(hostile, 1024, Buffer.from(name));
      expect(await code(hostile)).toBe('IMAGE_HAS_BACKING');
      expect(await code(hostile, true)).toBe(expected);
    }
    // An L1 table that points into nowhere.
    await withHeader(40, u64(1n << 50n));
    expect(await code(hostile)).toBe('IMAGE_CORRUPT');
    expect(await readdir(store.folder)).toEqual([]);
  });

  it('refuses unusable names and command lines', async () => {
    const disk = { path: await rawDisk('disk') };
    await writeFile(at('kernel'), 'kernel');
    for (const name of ['', '../x', 'a b', '-x', 'a'.repeat(65), 'abcdef01'.repeat(8)]) {
      await expect(store.add({ name, disk })).rejects.toMatchObject({ code: 'IMAGE_NAME' });
    }
    for (const commandLine of ['a\nb', 'x'.repeat(3000)]) {
      const adding = store.add({ name: 'a', disk, kernel: at('kernel'), commandLine });
      await expect(adding).rejects.toMatchObject({ code: 'IMAGE_COMMAND_LINE' });
    }
    await expect(store.add({ name: 'a', disk, commandLine: 'x' })).rejects.toMatchObject({
      code: 'IMAGE_COMMAND_LINE',
    });
    await symlink('/nowhere', at('dangling'));
    const adding = store.add({ name: 'a', disk, kernel: at('dangling') });
    await expect(adding).rejects.toMatchObject({ code: 'IMAGE_MISSING_FILE' });
  });

  it('leaves nothing behind when aborted, and sweeps what a killed process left', async () => {
    const abort = new AbortController();
    const adding = store.add(
      { name: 'a', disk: { path: await rawDisk('disk') } },
      { signal: abort.signal, onProgress: () => abort.abort(new Error('stop')) },
    );
    await expect(adding).rejects.toThrow('stop');
    expect(await readdir(store.folder)).toEqual([]);
    await writeFile(join(store.folder, '.new-999999999-dead'), '');
    await writeFile(join(store.folder, `.new-${process.pid}-alive`), '');
    await ImageStore.open(store.folder);
    expect(await readdir(store.folder)).toEqual([`.new-${process.pid}-alive`]);
  });
});

async function qcow2(name: string): Promise<string> {
  qemuImg('create', '-q', '-f', 'qcow2', at(name), '4M');
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -q -P 3 0 64k', at(name)]);
  return at(name);
}
