import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { sleep } from '../../src/base/async.ts';
import { errorCode } from '../../src/base/errors.ts';
import { moveViewSchema, nodeListSchema } from '../../src/center/api/messages.ts';
import { WorkloadClient } from '../../src/content/guests/workload-client.ts';
import type { TwoTier } from '../../src/lab/two-tier.ts';
import { vmViewSchema } from '../../src/site/api/messages.ts';
import { seeded } from '../migration/disk-link.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';
import { centerVm, deskOf, movesOf, present, settledAt, twoTier, verified, views } from '../kit/twoTier.ts';

let dir: TempDir;
let system: TwoTier;
let desk: string;

beforeAll(async () => {
  dir = await tempDir();
  system = await twoTier(dir, 2);
  desk = await deskOf(system, 'ann');
  // a guest that writes and checks memory and disk all the time
  const { vm } = await settledAt(system, desk, 'center');
  await loaded(vm.host);
});
afterAll(async () => {
  await system?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

async function loaded(host: string): Promise<void> {
  const view = await system.host(host).json('GET', `/vms/${desk}`, vmViewSchema);
  for (;;) {
    try {
      using work = await WorkloadClient.connect(view.serial1Socket ?? '');
      expect(await work.command('start disk=20 mem=20')).toMatchObject({ ok: true });
      return;
    } catch {
      await sleep(100);
    }
  }
}

const sound = async (site: string): Promise<void> => {
  const { vm } = await settledAt(system, desk, site);
  expect(await verified(system, vm.host, desk)).toMatch(/ok/);
};

describe('a VM follows its user', () => {
  test('to an AP, from there to another one directly, and home when the user is nowhere', async () => {
    await present(system, 'ann', 'ap1');
    await sound('ap1');
    await present(system, 'ann', 'ap2');
    await sound('ap2');
    const [toAp2] = await movesOf(system, desk);
    expect(toAp2?.record).toMatchObject({
      state: 'completed',
      from: { site: 'ap1', host: 'ap1-h1' },
      to: { site: 'ap2', host: 'ap2-h1' },
      cause: 'presence',
      reason: 'ann is at ap2',
    });
    expect(toAp2?.record.figures?.switchTimeMs).toBeGreaterThan(0);
    const overheadMs = toAp2?.record.figures?.overheadMs ?? -1;
    expect(overheadMs).toBeGreaterThanOrEqual(0);
    expect(overheadMs).toBeLessThan(toAp2?.record.figures?.switchTimeMs ?? 0);
    if (process.env.CLOUDAP_FIGURES) console.log(`presence to instruction: ${overheadMs} ms`);
    await present(system, 'ann', 'ap2', 'leave');
    await sound('center');
    expect((await centerVm(system, desk)).decision?.reason).toContain('nowhere');
  });

  test('a move that is asked for is shown as it goes; one to where the VM is, or to nowhere, is refused', async () => {
    const ask = (toSite: string) =>
      system.center.json('POST', '/moves', moveViewSchema, { body: { vm: 'desk-ann', toSite } });
    await expect(ask('center')).rejects.toMatchObject({ code: 'MOVE_SAME_SITE' });
    await expect(ask('mars')).rejects.toMatchObject({ code: 'MOVE_SITE_UNKNOWN' });
    await expect(
      system.center.json('POST', '/moves', z.unknown(), { body: { vm: 'nobody', toSite: 'ap1' } }),
    ).rejects.toMatchObject({ code: 'MOVE_VM_UNKNOWN' });
    const { record } = await ask('ap1');
    const states: string[] = [];
    for await (const view of system.center.lines(`/moves/${record.move}/events`, moveViewSchema))
      states.push(view.record.state);
    expect(states.at(-1)).toBe('completed');
    expect(states).toContain('migrating');
    // its user is at the center: it does not stay away
    await sound('center');
  });
});

describe('whoever is killed, the VM is at one place, and goes on', () => {
  const natsPid = async (): Promise<number> =>
    (await system.center.json('GET', '/status', z.object({ natsPid: z.number() }))).natsPid;

  /** Who may run it, by every host's own word: never two. */
  async function oneOwner(): Promise<void> {
    const all = await views(system, desk);
    const owners = all
      .filter(({ ownership, owner }) => ownership === 'owned' && owner !== '')
      .map(({ site }) => site);
    const running = all.filter(({ status }) => status === 'running');
    expect(new Set(owners).size).toBeLessThanOrEqual(1);
    expect(running.length).toBeLessThanOrEqual(1);
  }

  const seed = Number(process.env.CLOUDAP_CHAOS_SEED ?? 20261127);
  test(`kills at random while the user walks (CLOUDAP_CHAOS_SEED=${seed})`, async () => {
    const random = seeded(seed);
    const sites = ['center', 'ap1', 'ap2'];
    const victims = ['center', 'nats', 'host', 'ap:ap1', 'ap:ap2'];
    let site = 'center';
    for (const victim of victims) {
      const [next = 'center'] = sites.filter((other) => other !== site).toSorted(() => random() - 0.5);
      const { vm } = await settledAt(system, desk, site);
      await present(system, 'ann', next);
      await sleep(Math.floor(random() * 1500));
      const agent = victim === 'host' ? `host:${vm.host}` : victim;
      if (victim === 'nats') process.kill(await natsPid(), 'SIGKILL');
      else {
        await system.kill(agent);
        await oneOwner();
        await sleep(Math.floor(random() * 1000));
        await system.run(agent);
      }
      site = next;
      await settledAt(system, desk, site);
      await oneOwner();
      await sound(site);
    }
    for (const { record } of await movesOf(system, desk)) expect(record.endedAtMs).not.toBeNull();
  });
});

describe('a site that is revoked', () => {
  test('gets no VM any more, and nothing that runs elsewhere is touched', async () => {
    await present(system, 'ann', 'ap1');
    await sound('ap1');
    const revoked = await system.center.json('POST', '/revocations', nodeListSchema, {
      body: { site: 'ap2' },
    });
    expect(revoked.map(({ node }) => node).toSorted()).toEqual(['ap2', 'ap2-h1']);
    const ask = system.center.json('POST', '/moves', moveViewSchema, {
      body: { vm: 'desk-ann', toSite: 'ap2' },
    });
    await ask.then(
      async ({ record }) => {
        let last = record;
        for await (const view of system.center.lines(`/moves/${record.move}/events`, moveViewSchema))
          last = view.record;
        expect(last.state).toBe('failed');
        expect(last.error?.code).toMatch(/^(CONTROL_NO_ANSWER|PLACE_NO_ROOM)$/);
      },
      (error: unknown) => expect(errorCode(error)).toMatch(/^[A-Z_]+$/),
    );
    await sound('ap1');
  });
});
