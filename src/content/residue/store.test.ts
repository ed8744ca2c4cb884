import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { type TempDir, tempDir } from '../../../test/kit/tempdir.ts';
import { PAGE_BYTES } from '../pages/constants.ts';
import { loadPageIndex } from '../pages/store.ts';
import { FREE_DISK_SHARE, RESIDUES_MAX } from './constants.ts';
import { ContentLog } from './log.ts';
import { ResidueStore } from './store.ts';

const MIB = 1024 * 1024;
const vm = (n: number): string => `vm-${n}`;

interface Lab {
  store: ResidueStore;
  free: number;
  /** Makes a whole log of so many pages and keeps it. */
  leave: (n: number, pages?: number) => Promise<boolean>;
}

function labOf(dir: TempDir, maxBytes = 64 * MIB): Lab {
  let nowMs = 1000;
  const lab: Lab = {
    free: 2 ** 40,
    store: new ResidueStore({
      folder: dir.file('residue'),
      maxBytes,
      freeBytes: () => Promise.resolve(lab.free),
      now: () => nowMs++,
    }),
    leave: async (n, pages = 4) => {
      await logOf(lab.store, `mig-${n}`, pages, n);
      return lab.store.keep(`mig-${n}`, { id: vm(n), name: `name${n}`, leftTo: 'ap1' });
    },
  };
  return lab;
}

async function logOf(store: ResidueStore, migrationId: string, pages: number, seed = 0): Promise<void> {
  const options = await store.logFor(migrationId);
  if (!options) throw new Error('nothing is kept');
  await using log = new ContentLog({ ...options, onGivenUp: () => {} });
  for (let i = 0; i < pages; i++) {
    const page = Buffer.alloc(PAGE_BYTES, 1 + seed);
    page.writeUInt32LE(i, 0);
    log.sink('memory').add(page, 0);
  }
  await log.finish();
}

const ids = async (store: ResidueStore): Promise<string[]> => (await store.list()).map(({ vmId }) => vmId);
const codeOf = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => 'none',
    (error: { code: string }) => error.code,
  );

test('what a VM leaves is found again, by its id only, until it is removed', async () => {
  await using dir = await tempDir();
  const { store, leave } = labOf(dir);
  expect(await store.list()).toEqual([]);
  expect(await store.find(vm(1))).toBeUndefined();
  expect(await leave(1)).toBe(true);
  const [only] = await store.list();
  expect(only).toMatchObject({ vmId: vm(1), vmName: 'name1', leftTo: 'ap1' });
  expect(only?.bytes).toBeGreaterThan(4 * PAGE_BYTES);
  const content = await store.find(vm(1));
  expect((await loadPageIndex(content ?? { indexPath: '' })).entries).toBe(4);
  for (const other of [vm(2), '..', '.', '', `${vm(1)}/../${vm(1)}`])
    expect(await store.find(other)).toBeUndefined();
  expect(await codeOf(store.remove('..'))).toBe('RESIDUE_UNKNOWN');
  await store.remove(vm(1));
  expect(await codeOf(store.remove(vm(1)))).toBe('RESIDUE_UNKNOWN');
  expect(await readdir(dir.file('residue'))).toEqual([]);
});

test('the newest residue of a VM replaces the one before', async () => {
  await using dir = await tempDir();
  const { store, leave } = labOf(dir);
  await leave(1, 4);
  await leave(1, 9);
  expect(await ids(store)).toEqual([vm(1)]);
  const content = await store.find(vm(1));
  expect((await loadPageIndex(content ?? { indexPath: '' })).entries).toBe(9);
});

test('over the quota the least recently used go', async () => {
  await using dir = await tempDir();
  const lab = labOf(dir, MIB);
  const { store, leave } = lab;
  for (const n of [1, 2, 3]) await leave(n, 70);
  await store.find(vm(1));
  // noted behind the caller's back, in turn with what else changes the store
  await store.giveWay(0);
  expect(await ids(store)).toEqual([vm(1), vm(3), vm(2)]);
  await leave(4, 70);
  expect(await ids(store)).toEqual([vm(4), vm(1), vm(3)]);
  // one that fits only without the others, and one that does not fit at all
  await leave(5, 240);
  expect(await ids(store)).toEqual([vm(5)]);
  expect(await leave(6, 300)).toBe(false);
  await logOf(store, 'mig-7', 200);
  lab.free = 0;
  const late = store.keep('mig-7', { id: vm(7), name: 'late', leftTo: 'ap1' });
  expect(await codeOf(late)).toBe('RESIDUE_NOT_KEPT');
  expect(await ids(store)).toEqual([vm(5)]);
  expect(await readdir(dir.file('residue'))).toEqual([vm(5)]);
});

test('residue takes a share of what is free, and gives way', async () => {
  await using dir = await tempDir();
  const lab = labOf(dir);
  const { store, leave } = lab;
  await leave(1, 10);
  await leave(2, 10);
  const used = (await store.list()).reduce((sum, { bytes }) => sum + bytes, 0);
  lab.free = FREE_DISK_SHARE * MIB - used;
  expect((await store.logFor('mig-9'))?.maxBytes).toBe(MIB);
  lab.free = 8 * PAGE_BYTES;
  await leave(3, 4);
  expect(await ids(store)).toEqual([vm(3)]);
  await store.giveWay(lab.free);
  expect(await ids(store)).toEqual([vm(3)]);
  await store.giveWay(lab.free + 1);
  expect(await ids(store)).toEqual([]);
});

test('no more than RESIDUES_MAX VMs', async () => {
  await using dir = await tempDir();
  const { store, leave } = labOf(dir);
  for (let n = 0; n < RESIDUES_MAX; n++) {
    await mkdir(dir.file(`residue/old-${n}`), { recursive: true });
    const meta = {
      version: 1,
      vmId: `old-${n}`,
      vmName: 'x',
      leftTo: 'b',
      keptAtMs: 1,
      usedAtMs: n,
      bytes: 1,
    };
    await writeFile(dir.file(`residue/old-${n}/meta.json`), JSON.stringify(meta));
  }
  await leave(1);
  const kept = await ids(store);
  expect(kept.length).toBe(RESIDUES_MAX);
  expect(kept[0]).toBe(vm(1));
  expect(kept).not.toContain('old-0');
});

test('a quota of 0 keeps nothing, and removes what was kept', async () => {
  await using dir = await tempDir();
  await labOf(dir).leave(1);
  const { store } = labOf(dir, 0);
  expect(await store.logFor('mig-1')).toBeUndefined();
  await store.sweep(
    () => false,
    () => true,
  );
  expect(await readdir(dir.file('residue'))).toEqual([]);
});

test('what a killed process left is swept; logs of migrations under way and indexes of VMs that are here stay', async () => {
  await using dir = await tempDir();
  const { store, leave } = labOf(dir);
  await leave(1);
  for (const name of ['.log-mig-gone', '.log-mig-active', '.old-1234', 'vm-7', 'vm-8']) {
    await mkdir(dir.file(`residue/${name}`));
    await writeFile(dir.file(`residue/${name}/memory.pages`), 'x');
  }
  await writeFile(dir.file('residue/vm-8/meta.json'), '{');
  for (const name of ['vm-1.ap1.idx', 'vm-2.ap1.idx', 'stray'])
    await writeFile(dir.file(`residue/${name}`), 'x');
  await store.sweep(
    (migration) => migration === 'mig-active',
    (vmId) => vmId === 'vm-2',
  );
  expect((await readdir(dir.file('residue'))).sort()).toEqual(['.log-mig-active', 'vm-1', 'vm-2.ap1.idx']);
});

test('the target keeps the index alone, for as long as the VM is there', async () => {
  await using dir = await tempDir();
  const { store } = labOf(dir);
  await logOf(store, 'mig-1', 5);
  expect(await store.heldBy('center', vm(1))).toBeUndefined();
  expect(await store.keepIndex('mig-1', vm(1), 'center')).toBe(true);
  const indexPath = (await store.heldBy('center', vm(1))) ?? '';
  expect((await loadPageIndex({ indexPath })).entries).toBe(5);
  expect(await store.heldBy('ap2', vm(1))).toBeUndefined();
  expect(await store.heldBy('center', vm(2))).toBeUndefined();
  expect((await readdir(dir.file('residue'))).length).toBe(1);
  await store.dropIndexes(vm(1));
  expect(await readdir(dir.file('residue'))).toEqual([]);
});

test('a log that is missing or not whole is no residue', async () => {
  await using dir = await tempDir();
  const { store, leave } = labOf(dir);
  await leave(1);
  expect(await store.keep('mig-none', { id: vm(1), name: 'x', leftTo: 'b' })).toBe(false);
  expect(await store.keepIndex('mig-none', vm(1), 'b')).toBe(false);
  await logOf(store, 'mig-2', 3);
  await store.dropLog('mig-2');
  expect(await readdir(dir.file('residue'))).toEqual([vm(1)]);
});
