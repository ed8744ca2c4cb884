import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { buildGuest } from '../../src/content/guests/build.ts';
import { makeExt4 } from '../../src/content/guests/ext4.ts';
import { lockFile } from '../../src/content/guests/lock.ts';
import { runStep } from '../../src/content/guests/steps.ts';
import { ImageStore } from '../../src/content/images/store.ts';
import { processAlive } from '../../src/base/process.ts';
import { builtGuest } from './launcher.ts';

const MIB = 1024 * 1024;
const cache = join(import.meta.dirname, '../../.cache');
let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'cloudap-build-'));
});
afterEach(() => rm(folder, { recursive: true }));

it('makes equal file systems of equal trees, whatever the order, owner and time of their making', async () => {
  const names = ['usr', 'bin', 'etc', 'zz', 'aa'];
  const hashes: string[] = [];
  for (const order of [names, names.toReversed()]) {
    const root = join(folder, `root-${order[0]}`);
    for (const name of order) {
      await mkdir(join(root, name), { recursive: true });
      await writeFile(join(root, name, 'file'), `content of ${name}`, { mode: 0o751 });
    }
    const image = join(folder, `${order[0]}.img`);
    await makeExt4(root, image, 8 * MIB);
    expect((await stat(image)).size).toBe(8 * MIB);
    execFileSync('/usr/sbin/e2fsck', ['-fn', image], { stdio: 'pipe' });
    hashes.push((await readFile(image)).toString('base64'));
  }
  expect(hashes[0] === hashes[1]).toBe(true);
  const listing = execFileSync('/usr/sbin/debugfs', ['-R', 'stat /aa/file', join(folder, 'usr.img')], {
    stdio: 'pipe',
  });
  expect(listing.toString()).toMatch(/Mode: +0751/);
  expect(listing.toString()).toMatch(/User: +0 +Group: +0 /);
});

it('reports a tree that does not fit, a missing program and an unknown recipe', async () => {
  await mkdir(join(folder, 'root'));
  await writeFile(join(folder, 'root/big'), Buffer.alloc(4 * MIB, 1));
  const making = makeExt4(join(folder, 'root'), join(folder, 'image'), 2 * MIB);
  await expect(making).rejects.toMatchObject({ code: 'GUEST_STEP' });
  await expect(runStep('no-such-program', [])).rejects.toMatchObject({ code: 'GUEST_TOOL' });
  const store = await ImageStore.open(join(folder, 'store'));
  await expect(buildGuest('windows', store, folder)).rejects.toMatchObject({ code: 'GUEST_UNKNOWN' });
});

it('ends a program with all that it started when aborted', async () => {
  const abort = new AbortController();
  let pid = 0;
  const running = runStep('sh', ['-c', 'sleep 1000 & echo $!; wait'], {
    signal: abort.signal,
    onLine: (line) => {
      pid = Number(line);
      abort.abort(new Error('stop'));
    },
  });
  await expect(running).rejects.toThrow('stop');
  await expect.poll(() => processAlive(pid), { timeout: 20_000 }).toBe(false);
});

it('leaves nothing behind when a build is aborted half-way', async () => {
  await builtGuest('ci'); // so that the packages are there
  const store = await ImageStore.open(join(folder, 'store'));
  const abort = new AbortController();
  const building = buildGuest('ci', store, cache, {
    signal: abort.signal,
    onProgress: ({ step }) => {
      if (step === 'initramfs') abort.abort(new Error('stop'));
    },
  });
  await expect(building).rejects.toThrow('stop');
  expect(await readdir(store.folder)).toEqual([]);
  expect((await readdir(cache)).filter((entry) => entry.startsWith(`build-${process.pid}-`))).toEqual([]);
});

it('lets one builder at a time into a cache folder and takes over from one that died', async () => {
  const path = join(folder, 'lock');
  await writeFile(path, '999999999');
  const first = await lockFile(path);
  let waits = 0;
  const second = lockFile(path, { onWait: () => waits++ });
  await expect.poll(() => waits, { timeout: 20_000 }).toBeGreaterThan(0);
  await first[Symbol.asyncDispose]();
  await using _held = await second;
  const aborted = lockFile(path, { signal: AbortSignal.timeout(50) });
  await expect(aborted).rejects.toMatchObject({ name: 'TimeoutError' });
});
