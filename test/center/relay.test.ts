import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import { TwoTier } from '../../src/lab/two-tier.ts';
import { siteViewSchema, vmViewSchema } from '../../src/site/api/messages.ts';
import { cli } from '../kit/siteProcess.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';
import { deskOf, movesOf, present, settledAt, verified } from '../kit/twoTier.ts';

let dir: TempDir;
let system: TwoTier;
let desk: string;

/** ap3's host listens nowhere; what those of ap1 and ap2 say of themselves leads nowhere: all reach the center only. */
function apart(host: string, config: string, nobody: string): string {
  if (host === 'ap3-h1') return config.replace(/^link: .*$/m, 'link: {}');
  if (host === 'center-h1') return config;
  return config.replace(/^(link: .*) }$/m, `$1, advertise: "${nobody}" }`);
}

beforeAll(async () => {
  dir = await tempDir();
  const nobody = `127.0.0.1:${await freePort()}`;
  system = await TwoTier.start(
    {
      dir: dir.file('up'),
      aps: 3,
      hostsPerSite: 1,
      memoryMiB: 1024,
      accelerator: 'tcg',
      port: freePort,
    },
    {
      async configured({ hosts }) {
        for (const [host, file] of hosts)
          await writeFile(file, apart(host, await readFile(file, 'utf8'), nobody));
      },
    },
  );
  const [config = ''] = system.files.hosts.values();
  const built = await cli(['image', 'build', 'ci'], { config });
  expect(built.code, built.stderr).toBe(0);
  desk = await deskOf(system, 'ann');
  const { vm } = await settledAt(system, desk, 'center');
  // a guest that writes and checks memory and disk all the time
  const view = await system.host(vm.host).json('GET', `/vms/${desk}`, vmViewSchema);
  using work = await WorkloadClient.connect(view.serial1Socket ?? '');
  await work.ready();
  expect(await work.command('start disk=20 mem=20')).toMatchObject({ ok: true });
});
afterAll(async () => {
  await system?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

/** Ways that the center's host gave: `from to route`. */
async function relayed(): Promise<string[]> {
  const log = await readFile(join(system.dir, 'center-h1', 'data', 'agent.log'), 'utf8');
  const said = z.object({ msg: z.string(), from: z.string(), to: z.string(), route: z.string() });
  return log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => said.safeParse(JSON.parse(line)))
    .flatMap(({ data }) => (data?.msg === 'relayed' ? [`${data.from} ${data.to} ${data.route}`] : []));
}

async function arrives(site: string, meanwhile: () => Promise<void> = async () => {}): Promise<string> {
  const before = (await movesOf(system, desk)).length;
  await present(system, 'ann', site);
  await meanwhile();
  const { vm } = await settledAt(system, desk, site);
  expect(await verified(system, vm.host, desk)).toMatch(/ok/);
  const moves = await movesOf(system, desk);
  expect(moves.length).toBeGreaterThan(before);
  return moves[0]?.record.move ?? '';
}

/** A move whose movers have found each other. */
async function meets(): Promise<string> {
  for (;;) {
    const move = (await movesOf(system, desk)).find(({ record }) => record.endedAtMs === null);
    if (move && (await relayed()).some((way) => way.endsWith(move.record.move))) return move.record.move;
    await sleep(20);
  }
}

test('a VM goes from AP to AP, both ways, through the center', async () => {
  await arrives('ap1');
  expect(await relayed()).toEqual([]);
  const first = await arrives('ap2');
  expect(await relayed()).toEqual(expect.arrayContaining(['ap1-h1 ap2-h1 agent', `ap1-h1 ap2-h1 ${first}`]));
  const sites = await system.host('ap1-h1').json('GET', '/sites', z.array(siteViewSchema));
  expect(sites.find(({ id }) => id === 'ap2-h1')).toMatchObject({
    connected: true,
    address: expect.stringContaining('center-h1'),
  });
  // to a host without a gateway, and back: then the source is the one that waits at the relay
  const there = await arrives('ap3');
  expect(await relayed()).toContain(`ap2-h1 ap3-h1 ${there}`);
  const back = await arrives('ap2');
  expect(await relayed()).toContain(`ap2-h1 ap3-h1 ${back}`);
  // the direct ways take their time, but each was one move
  for (const { record } of await movesOf(system, desk)) expect(record.state).toBe('completed');
});

test('the agents at both ends and that of the relay may be killed while it goes', async () => {
  const agents = ['host:center-h1', 'host:ap2-h1', 'host:ap1-h1'];
  await arrives('ap1', async () => {
    await meets();
    await Promise.all(agents.map((agent) => system.kill(agent)));
    await Promise.all(agents.map((agent) => system.run(agent)));
  });
});
