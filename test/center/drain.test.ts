import { afterAll, beforeAll, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { drainViewSchema } from '../../src/portal/messages.ts';
import type { TwoTier } from '../../src/lab/two-tier.ts';
import { cli } from '../kit/siteProcess.ts';
import { loaded, MoveLog } from '../kit/roam.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';
import { centerVm, deskOf, twoTier, verified } from '../kit/twoTier.ts';

const MEMORY_MIB = 96;
const DRAIN = '/sites/ap1/hosts/ap1-h1/drain';
let dir: TempDir;
let system: TwoTier;
const desks: string[] = [];

beforeAll(async () => {
  dir = await tempDir();
  system = await twoTier(dir, 1, 2, {
    // the second host has room for one VM
    host: async (id) => ({ memoryMiB: id === 'ap1-h2' ? MEMORY_MIB + 32 : 1024 }),
  });
  for (const user of ['ann', 'bob'])
    desks.push(await deskOf(system, user, { memoryMiB: MEMORY_MIB, homeSite: 'ap1' }));
  for (const desk of desks) await loaded(system, desk, 4);
});
afterAll(async () => {
  await system?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

const where = async (): Promise<string[]> =>
  (await Promise.all(desks.map((desk) => centerVm(system, desk)))).map(({ vm }) => vm.host).toSorted();

test('a drained host gives its VMs to its site and, where that is full, to the center; nothing comes until it is undrained', async () => {
  expect(await where()).toEqual(['ap1-h1', 'ap1-h1']);
  const config = { center: system.files.center };
  const drained = await cli(['center', 'drain', 'ap1/ap1-h1', '--center-config', config.center]);
  expect(drained.stderr).toBe('');
  expect(drained.stdout).toMatch(/ap1-h1 is empty\n$/);
  expect(await where()).toEqual([expect.stringMatching(/^ap1-h2$/), expect.stringMatching(/^center-h/)]);
  for (const desk of desks)
    expect(await verified(system, (await centerVm(system, desk)).vm.host, desk)).toMatch(/ok/);
  await using log = MoveLog.start(system);
  const moves = await log.look();
  expect(moves.map(({ cause, state }) => `${cause} ${state}`)).toEqual([
    'drain completed',
    'drain completed',
  ]);
  for (const { reason, hostReason } of moves) {
    expect(reason).toMatch(/^ap1-h1 is drained; /);
    expect(hostReason).toMatch(/keeps \d+ %/);
  }
  const [first] = moves;
  const shown = await cli(['center', 'moves', first?.move ?? '', '--center-config', config.center]);
  expect(shown.stdout).toMatch(/why there +ap1-h1 is drained/);
  // the second one's home has room on the drained host only: it stays away, and says why
  const away = (await Promise.all(desks.map((desk) => centerVm(system, desk)))).find(
    ({ vm }) => vm.site === 'center',
  );
  expect(away?.decision?.reason).toMatch(/ap1-h1: is being drained/);
  // and its agents may be started anew meanwhile
  await system.kill('center');
  await system.run('center');
  while (!(await system.center.json('GET', DRAIN, drainViewSchema).catch(() => undefined))?.draining)
    await sleep(100);
  await system.center.json('DELETE', DRAIN, drainViewSchema);
  while ((await where()).join() !== 'ap1-h1,ap1-h2') await sleep(100);
});

test('what is not there can be neither drained nor evened out, and it says so', async () => {
  const no = await cli(['center', 'drain', 'ap1/center-h1', '--center-config', system.files.center]);
  expect(no.code).not.toBe(0);
  expect(no.stderr).toContain('HOST_UNKNOWN');
  const none = await cli(['center', 'rebalance', 'mars', '--center-config', system.files.center]);
  expect(none.code).not.toBe(0);
  expect(none.stderr).toContain('MOVE_SITE_UNKNOWN');
  const center = await cli([
    'center',
    'rebalance',
    'center',
    '--dry-run',
    '--center-config',
    system.files.center,
  ]);
  expect(center).toMatchObject({ code: 0, stdout: 'center: nothing would gain by a move\n' });
});
