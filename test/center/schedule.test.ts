import { expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { errorCode } from '../../src/base/errors.ts';
import { rebalance } from '../../src/center/rebalance.ts';
import type { MoveRecord } from '../../src/control/messages.ts';
import { SimSystem } from '../kit/simHosts.ts';

const until = async (true_: () => boolean): Promise<void> => {
  while (!true_()) await sleep(10);
};
const all = (system: SimSystem): MoveRecord[] => system.moves.list().map(({ record }) => record);
const ended = (system: SimSystem): Promise<void> =>
  until(() => all(system).length > 0 && all(system).every(({ endedAtMs }) => endedAtMs !== null));

test('rebalancing moves VMs to emptier hosts, says why, and then lets them rest', async () => {
  await using system = await SimSystem.start(['h1', 'h2', 'h3'].map((host) => ({ site: 'ap1', host })));
  const vms: string[] = [];
  for (let i = 0; i < 6; i++) vms.push(await system.vm(`desk${i}`, 'h1'));
  const host = () => system.fleet.host('h1');
  await until(() => host()?.heartbeat.used.vms === 6);
  const dry = await rebalance(system, 'ap1', true);
  expect(dry.length).toBeGreaterThan(2);
  expect(dry.every(({ move, from }) => move === null && from === 'h1')).toBe(true);
  expect(all(system)).toEqual([]);
  const done = await rebalance(system, 'ap1', false);
  await ended(system);
  expect(all(system).map(({ state, cause }) => `${state} ${cause}`)).toEqual(
    done.map(() => 'completed rebalance'),
  );
  expect(all(system)[0]?.reason).toMatch(/^h1 is \d+ % full and h[23] \d+ %: /);
  const at = system.where(...vms);
  expect(['h1', 'h2', 'h3'].map((name) => at.filter((found) => found === name).length)).toEqual([2, 2, 2]);
  await until(() => host()?.heartbeat.used.vms === 2);
  expect(await rebalance(system, 'ap1', false)).toEqual([]);
  await expect(rebalance(system, 'mars', false)).rejects.toMatchObject({ code: 'MOVE_SITE_UNKNOWN' });
});

test('a VM that was moved within its site a moment ago rests, however the load has changed', async () => {
  await using system = await SimSystem.start(['h1', 'h2'].map((host) => ({ site: 'ap1', host })));
  for (let i = 0; i < 4; i++) await system.vm(`desk${i}`, 'h1', { memoryMiB: 200 });
  await until(() => system.fleet.host('h1')?.heartbeat.used.vms === 4);
  const first = await rebalance(system, 'ap1', false);
  await ended(system);
  // two large ones come to where the first went to
  for (let i = 0; i < 2; i++) await system.vm(`large${i}`, 'h2', { memoryMiB: 300 });
  await until(() => system.fleet.host('h2')?.heartbeat.used.vms === first.length + 2);
  const moved = new Set(first.map(({ vm }) => vm));
  const second = await rebalance(system, 'ap1', true);
  expect(second.length).toBeGreaterThan(0);
  expect(second.filter(({ vm }) => moved.has(vm))).toEqual([]);
});

test('a host is drained into its site, then to the center; what has no room says why; it outlives the center', async () => {
  await using system = await SimSystem.start([
    { site: 'ap1', host: 'h1', memoryMiB: 2048 },
    { site: 'ap1', host: 'h2', memoryMiB: 300 },
    { site: 'center', host: 'c1', memoryMiB: 200 },
  ]);
  const vms = [
    await system.vm('a', 'h1', { memoryMiB: 300 }),
    await system.vm('b', 'h1', { memoryMiB: 200 }),
  ];
  const large = await system.vm('large', 'h1', { memoryMiB: 1000 });
  await expect(system.drains.set('center', 'h1', true)).rejects.toMatchObject({ code: 'HOST_UNKNOWN' });
  expect((await system.drains.set('ap1', 'h1', true)).draining).toBe(true);
  await until(() => system.where(...vms).join() === 'h2,c1');
  await ended(system);
  expect(all(system).map(({ cause, state }) => `${cause} ${state}`)).toEqual([
    'drain completed',
    'drain completed',
  ]);
  const why = () => system.drains.view('ap1', 'h1').left;
  await until(() => why().length === 1 && why()[0]?.move === null);
  expect(why()).toMatchObject([{ vm: large, status: 'running' }]);
  expect(why()[0]?.why).toMatch(/ap1: .*h2: 0 MiB of memory.*; center: c1: 0 MiB/);
  // nothing is placed there, by name either
  const back = await system.moves.request({
    vm: vms[0] ?? '',
    toSite: 'ap1',
    toHost: 'h1',
    user: null,
    cause: 'request',
    reason: 'test',
  });
  expect(await system.moves.ended(back.move)).toMatchObject({
    state: 'failed',
    error: { code: 'PLACE_NO_ROOM' },
  });
  await system.restartDrains();
  expect(system.drains.view('ap1', 'h1').draining).toBe(true);
  await system.drains.set('ap1', 'h1', false);
  await until(() => system.fleet.host('h1')?.draining === false);
  const again = await system.moves.request({
    vm: vms[0] ?? '',
    toSite: 'ap1',
    toHost: 'h1',
    user: null,
    cause: 'request',
    reason: 'test',
  });
  const record = await system.moves.ended(again.move);
  expect(record).toMatchObject({ state: 'completed', to: { host: 'h1' } });
  expect(record.hostReason).toMatch(/least-loaded of 1: h1 keeps/);
});

test('hosts that are drained at the same time, and a site that is changed, do not undo each other', async () => {
  const hosts = Array.from({ length: 5 }, (_, i) => ({ site: 'ap1', host: `h${i + 1}` }));
  await using system = await SimSystem.start(hosts);
  await Promise.all(hosts.map(({ host }) => system.drains.set('ap1', host, true)));
  expect((await system.plane.buckets.sites.get('ap1'))?.value.draining).toEqual(
    hosts.map(({ host }) => host),
  );
  await Promise.all(hosts.slice(1).map(({ host }) => system.drains.set('ap1', host, false)));
  expect((await system.plane.buckets.sites.get('ap1'))?.value.draining).toEqual(['h1']);
});

test('a VM whose user’s site is full goes to the one that is nearest to it, and the move says so; with room, on to the user', async () => {
  await using system = await SimSystem.start([
    { site: 'center', host: 'c1' },
    { site: 'ap1', host: 'a1', memoryMiB: 256, rtt: { c1: 40, b1: 4, d1: 12 } },
    { site: 'ap2', host: 'b1' },
    { site: 'ap3', host: 'd1' },
  ]);
  const other = await system.vm('other', 'a1', { memoryMiB: 256 });
  await until(() => system.fleet.host('a1')?.heartbeat.used.memoryMiB === 256);
  const desk = await system.vm('desk', 'c1', { user: 'ann' });
  const follow = system.follow();
  await system.userAt(follow, 'ann', 'ap1');
  await until(() => system.where(desk).join() === 'b1');
  await ended(system);
  const [move, ...others] = all(system);
  expect(others).toEqual([]);
  expect(move).toMatchObject({ cause: 'presence', to: { site: 'ap2', host: 'b1' }, state: 'completed' });
  expect(move?.reason).toMatch(
    /^ann is at ap1, but no host there can take it \(a1: 0 MiB .*\); ap2 is 4 ms from there, center 40 ms$/,
  );
  await until(() => follow.decision(desk)?.reason.startsWith('stays at ap2') === true);
  await system.moves.request({ vm: other, toSite: 'center', user: null, cause: 'request', reason: 'test' });
  await until(() => system.where(desk).join() === 'a1');
});

test('ten that want the last place of a site at once: one gets it, nine are told why', async () => {
  await using system = await SimSystem.start([
    { site: 'center', host: 'c1', memoryMiB: 4096 },
    { site: 'ap1', host: 'a1', memoryMiB: 128 },
  ]);
  const vms: string[] = [];
  for (let i = 0; i < 10; i++) vms.push(await system.vm(`desk${i}`, 'c1'));
  const asked = await Promise.all(
    vms.map((vm) =>
      system.moves.request({ vm, toSite: 'ap1', user: null, cause: 'request', reason: 'test' }),
    ),
  );
  const records = await Promise.all(asked.map(({ move }) => system.moves.ended(move)));
  expect(records.filter(({ state }) => state === 'completed')).toHaveLength(1);
  const lost = records.filter(({ state }) => state !== 'completed');
  expect(lost.map(({ state, error }) => `${state} ${error?.code}`)).toEqual(
    lost.map(() => 'failed PLACE_NO_ROOM'),
  );
  for (const { error } of lost) expect(error?.message).toContain('a1: 0 MiB of memory are left of 128');
  // asked for again under the same id it is the same answer
  const [first] = lost;
  const params = {
    vm: first?.vm ?? '',
    toSite: 'ap1',
    user: null,
    cause: 'request',
    reason: 'test',
  } as const;
  expect(await system.moves.request({ ...params, ...(first && { move: first.move }) })).toEqual(first);
  await expect(system.moves.request({ ...params, toSite: 'mars' })).rejects.toSatisfy(
    (error) => errorCode(error) === 'MOVE_SITE_UNKNOWN',
  );
});

test('a VM that does not go to its user says why, once for each presence; it goes as soon as it can', async () => {
  await using system = await SimSystem.start([
    { site: 'center', host: 'c1' },
    { site: 'ap1', host: 'a1', memoryMiB: 128 },
  ]);
  const other = await system.vm('other', 'a1');
  await until(() => system.fleet.host('a1')?.heartbeat.used.memoryMiB === 128);
  const desk = await system.vm('desk', 'c1', { user: 'ann' });
  const follow = system.follow();
  await system.userAt(follow, 'ann', 'ap1');
  await ended(system);
  const [stayed] = all(system);
  expect(stayed).toMatchObject({
    vm: desk,
    user: 'ann',
    state: 'stayed',
    cause: 'presence',
    from: { host: 'c1' },
    to: { site: 'ap1', host: null },
    startedAtMs: null,
    error: null,
  });
  expect(stayed?.reason).toMatch(
    /^stays at center: ann is at ap1, but no host there can take it \(a1: 0 MiB/,
  );
  await system.moves.request({ vm: other, toSite: 'center', user: null, cause: 'request', reason: 'test' });
  await until(() => system.where(desk).join() === 'a1');
  await ended(system);
  // her VM is where she is: that is no news
  await system.userAt(follow, 'ann', 'ap1');
  await until(() => follow.decision(desk)?.reason === 'ann is at ap1');
  expect(
    all(system)
      .map(({ name, state }) => `${name} ${state}`)
      .toSorted(),
  ).toEqual(['desk completed', 'desk stayed', 'other completed']);
  // the next center knows it as well
  expect((await system.plane.buckets.moves.get(stayed?.move ?? ''))?.value).toEqual(stayed);
});
