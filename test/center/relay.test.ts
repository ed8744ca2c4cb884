import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { sleep } from '../../src/base/async.ts';
import type { TwoTier } from '../../src/lab/two-tier.ts';
import { siteViewSchema } from '../../src/site/api/messages.ts';
import { freePort } from '../kit/nats.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';
import { deskOf, load, movesOf, present, settledAt, twoTier, verified } from '../kit/twoTier.ts';

let dir: TempDir;
let system: TwoTier;
let desk: string;

/** ap1's host listens nowhere, what ap2's says of itself leads nowhere: they reach the center only. */
beforeAll(async () => {
  dir = await tempDir();
  const nobody = await freePort();
  system = await twoTier(dir, 2, 1, (host, config) => {
    if (host === 'ap1-h1') return config.replace(/^link: .*$/m, 'link: {}');
    if (host === 'ap2-h1') return config.replace(/^(link: .*) }$/m, `$1, advertise: "127.0.0.1:${nobody}" }`);
    return config;
  });
  desk = await deskOf(system, 'ann');
  const { vm } = await settledAt(system, desk, 'center');
  await load(system, vm.host, desk);
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

const underWay = async (): Promise<string> => {
  for (;;) {
    const [move] = await movesOf(system, desk);
    if (move?.record.state === 'migrating' && move.migration?.state) return move.record.move;
    await sleep(50);
  }
};

test('a VM goes from AP to AP, both ways, through the center', async () => {
  await arrives('ap1');
  expect(await relayed()).toEqual([]);
  const there = await arrives('ap2');
  expect(await relayed()).toEqual(expect.arrayContaining(['ap1-h1 ap2-h1 agent', `ap1-h1 ap2-h1 ${there}`]));
  const sites = await system.host('ap1-h1').json('GET', '/sites', z.array(siteViewSchema));
  expect(sites.find(({ id }) => id === 'ap2-h1')).toMatchObject({
    connected: true,
    address: expect.stringContaining('center-h1'),
  });
  // the source of the way back is the one that waits
  const back = await arrives('ap1');
  expect(await relayed()).toContain(`ap1-h1 ap2-h1 ${back}`);
});

test('the agents at both ends and that of the relay may be killed while it goes', async () => {
  await arrives('ap2', async () => {
    await underWay();
    for (const agent of ['host:center-h1', 'host:ap1-h1', 'host:ap2-h1']) await system.kill(agent);
    for (const agent of ['host:center-h1', 'host:ap1-h1', 'host:ap2-h1']) await system.run(agent);
  });
});
