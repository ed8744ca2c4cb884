import { readdir } from 'node:fs/promises';
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
  residueViewSchema,
  type ResidueView,
  vmViewSchema,
} from '../../src/site/api/messages.ts';
import { ciGuest } from '../kit/moverLab.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

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
  while (!(await kept())) await sleep(50);
  return record;
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
  console.log(leave.bytes, leave.pages, home.bytes, home.pages, again.bytes, again.pages);
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
