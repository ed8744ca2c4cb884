import { open, readdir, rm } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import * as z from 'zod';
import { sleep } from '../../src/base/async.ts';
import { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { loadPageIndex } from '../../src/content/pages/store.ts';
import { type LabSite, TwoSites } from '../../src/lab/two-sites.ts';
import { sitePaths } from '../../src/site/paths.ts';
import { loadConfig } from '../../src/site/config.ts';
import type { MigrationRecord } from '../../src/migration/record.ts';
import {
  migrationViewSchema,
  removedSchema,
  residueViewSchema,
  type ResidueView,
  vmViewSchema,
} from '../../src/site/api/messages.ts';
import { ciGuest } from '../kit/moverLab.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

const WAIT_MS = 60_000;
let dir: TempDir;
let sites: TwoSites;
let desk: string;

beforeAll(async () => {
  dir = await tempDir();
  sites = await TwoSites.start({
    dir: dir.path,
    memoryMiB: 1024,
    link: { rateMbit: 200, rttMs: 4, jitterMs: 0 },
  });
  await sites.stage(await ciGuest());
  desk = await newVm('desk');
});
afterAll(async () => {
  await sites?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

/** A guest whose workload has filled its memory, and goes on at an easy pace. */
async function newVm(name: string): Promise<string> {
  const body = { name, image: 'ci', start: true };
  const { id } = await sites.center.api.json('POST', '/vms', vmViewSchema, { body });
  using work = await workload(sites.center, id);
  await work.ready();
  expect(await work.command('start disk=20 mem=20')).toMatchObject({ ok: true });
  return id;
}

async function workload(site: LabSite, vmId: string): Promise<WorkloadClient> {
  const vm = await site.api.json('GET', `/vms/${vmId}`, vmViewSchema);
  return WorkloadClient.connect(vm.serial1Socket ?? '');
}

const folderOf = (site: LabSite): string => sitePaths(loadConfig(site.config)).residueDir;
const residues = (site: LabSite): Promise<ResidueView[]> =>
  site.api.json('GET', '/residue', z.array(residueViewSchema));
const otherThan = (site: LabSite): LabSite => (site === sites.center ? sites.ap : sites.center);

/** Moves a VM to the other site; returns when what both keep of that is in place. */
async function move(vm: string, from: LabSite): Promise<MigrationRecord> {
  const to = otherThan(from);
  const startedAtMs = Date.now();
  const body = { vm, to: to.id };
  const { migrationId } = await from.api.json('POST', '/migrations', migrationViewSchema, { body });
  let record: MigrationRecord | null = null;
  for await (const view of from.api.lines(`/migrations/${migrationId}/events`, migrationViewSchema)) {
    expect(view.error).toBeNull();
    record = view.record;
  }
  if (!record?.ok) throw new Error('there is no record of a success');
  using work = await workload(to, vm);
  expect((await work.command('verify')).line).toMatch(/^verify ok .*disk_bad=0 disk_errors=0 .*mem_bad=0/);
  expect(record.integrity.bad).toBe(0);
  const kept = async (): Promise<boolean> =>
    (await residues(from)).some(({ vmId, keptAtMs }) => vmId === vm && keptAtMs > startedAtMs) &&
    (await logsOf(to)).length === 0;
  await until(kept);
  return record;
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + WAIT_MS;
  while (!(await condition())) {
    if (performance.now() > deadlineMs) throw new Error('it does not come about');
    await sleep(50);
  }
}

/** Logs of migrations that are not done with. */
async function logsOf(site: LabSite): Promise<string[]> {
  return (await readdir(folderOf(site)).catch(() => [])).filter((name) => name.startsWith('.'));
}

test('a VM that comes home, or leaves again, sends only what has changed', async () => {
  const leave = await move(desk, sites.center);
  expect(leave.pages.fromResidue).toBe(0);
  const home = await move(desk, sites.ap);
  const again = await move(desk, sites.center);
  for (const record of [home, again]) {
    expect(record.pages.fromResidue).toBeGreaterThan(0);
    expect(record.pages.resent).toBe(0);
    expect(record.bytes.memory).toBeLessThan(leave.bytes.memory / 2);
  }
  // the source has the pages, the target their index: of the same pages
  const { digest } = await loadPageIndex({ indexPath: `${folderOf(sites.center)}/${desk}/pages.idx` });
  expect((await loadPageIndex({ indexPath: `${folderOf(sites.ap)}/${desk}.center.idx` })).digest).toBe(
    digest,
  );
});

test('residue that was evicted, and an index that is gone: all is sent again', async () => {
  const removed = await sites.center.api.json('DELETE', '/residue/desk', removedSchema);
  expect(removed.id).toBe(desk);
  expect(await residues(sites.center)).toEqual([]);
  expect((await move(desk, sites.ap)).pages).toMatchObject({ fromResidue: 0, resent: 0 });

  await rm(`${folderOf(sites.center)}/${desk}.ap1.idx`);
  expect((await move(desk, sites.center)).pages).toMatchObject({ fromResidue: 0, resent: 0 });
});

test('residue that is damaged: its pages are sent after all, and the VM is right', async () => {
  const path = `${folderOf(sites.center)}/${desk}/pages`;
  {
    await using file = await open(path, 'r+');
    const { size } = await file.stat();
    for (let at = 0; at < size; at += 4096) await file.write(Buffer.from([at >> 12, 0xa5]), 0, 2, at + 77);
  }
  const { pages } = await move(desk, sites.ap);
  expect(pages.resent).toBeGreaterThan(0);
  expect(pages.resent).toBeLessThanOrEqual(pages.fromResidue);
});

test('a VM gets nothing of what another one left, and its own goes with it', async () => {
  expect((await residues(sites.ap)).map(({ vmId }) => vmId)).toEqual([desk]);
  const twin = await newVm('twin');
  expect((await move(twin, sites.center)).pages.fromResidue).toBe(0);
  expect((await residues(sites.center)).map(({ vmId }) => vmId)).toEqual([twin, desk]);

  // removed for good where it is now: the site that it came from hears of it
  await sites.ap.api.json('POST', `/vms/${twin}/stop`, vmViewSchema, { body: { force: true } });
  await sites.ap.api.json('DELETE', `/vms/${twin}`, removedSchema);
  await until(async () => (await residues(sites.center)).every(({ vmId }) => vmId === desk));
  await until(async () => !(await readdir(folderOf(sites.ap))).some((name) => name.startsWith(twin)));
});
