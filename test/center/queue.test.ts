import { afterAll, beforeAll, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { MOVES_PER_LINK } from '../../src/center/constants.ts';
import type { MoveRecord } from '../../src/control/messages.ts';
import type { TwoTier } from '../../src/lab/two-tier.ts';
import { OwnerWatch } from '../kit/ownerWatch.ts';
import { MoveLog, mostPerLink } from '../kit/roam.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';
import { centerVm, deskOf, present, settledAt, twoTier } from '../kit/twoTier.ts';

/** VMs that run at once, and are moved at once; `npm run test:queue` has 20. Half of them are of one user. */
const VMS = Number(process.env.CLOUDAP_QUEUE_VMS ?? 6);
const others = Math.ceil(VMS / 2 / 3);
const DESKS: Readonly<Record<string, number>> = {
  ann: Math.floor(VMS / 2),
  bob: others,
  eve: others,
  kim: Math.ceil(VMS / 2) - 2 * others,
};
const TIMEOUT_MS = 300_000 + VMS * 60_000;
const MEMORY_MIB = 96;

let dir: TempDir;
let system: TwoTier;
const desks = new Map<string, string[]>();
const all = (): string[] => [...desks.values()].flat();

beforeAll(async () => {
  dir = await tempDir();
  system = await twoTier(dir, 2, 1, {
    // the first AP takes all of them, the second has one free place
    host: async (id) => ({ memoryMiB: id === 'ap2-h1' ? MEMORY_MIB + 32 : 4096, vms: 32 }),
  });
  for (const [user, count] of Object.entries(DESKS)) {
    if (count === 0) continue;
    const made: string[] = [];
    for (let i = 0; i < count; i++)
      made.push(await deskOf(system, user, { name: `desk-${user}-${i}`, memoryMiB: MEMORY_MIB }));
    desks.set(user, made);
  }
  for (const desk of all()) await settledAt(system, desk, 'center');
}, TIMEOUT_MS);
afterAll(async () => {
  await system?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

test(
  `${VMS} migrations asked for at once: so many at once on the link, users take turns, all succeed`,
  async () => {
    await using watch = OwnerWatch.start(system);
    await using log = MoveLog.start(system);
    await Promise.all([...desks.keys()].map((user) => present(system, user, 'ap1')));
    for (const desk of all()) await settledAt(system, desk, 'ap1');
    const moves = (await log.look()).filter(({ state }) => state === 'completed');
    expect(moves.map(({ vm }) => vm).toSorted()).toEqual(all().toSorted());
    expect(mostPerLink(moves)).toBeLessThanOrEqual(MOVES_PER_LINK);
    for (const move of moves) expect(waitedBehind(move, moves)).toEqual([]);
    await watch[Symbol.asyncDispose]();
    expect(watch.violations).toEqual([]);
  },
  TIMEOUT_MS,
);

test(
  'moves of half of them race for one free place: one gets it, the others are told why, and stay as they were',
  async () => {
    await using log = MoveLog.start(system);
    const before = new Set((await log.look()).map(({ move }) => move));
    const racers = desks.get('ann') ?? [];
    await present(system, 'ann', 'ap2');
    let answers: MoveRecord[] = [];
    while (new Set(answers.map(({ vm }) => vm)).size < racers.length) {
      await sleep(200);
      answers = (await log.look()).filter(({ move, endedAtMs }) => !before.has(move) && endedAtMs !== null);
    }
    const winners = answers.filter(({ state }) => state === 'completed');
    expect(winners).toHaveLength(1);
    for (const loser of answers.filter((answer) => answer !== winners[0])) {
      expect(loser).toMatchObject({ state: 'failed', error: { code: 'PLACE_NO_ROOM' } });
      expect(loser.error?.message).toMatch(/ap2-h1: \d+ MiB of memory are left of 96/);
      expect(loser.error?.remedy).toMatch(/\S/);
    }
    const [winner] = winners;
    for (const desk of racers) {
      const { vm, decision } = await settledAt(system, desk, desk === winner?.vm ? 'ap2' : 'ap1');
      expect(vm).toMatchObject({ status: 'running', ownership: 'owned' });
      if (desk !== winner?.vm)
        expect(decision?.reason).toMatch(/stays at ap1: ann is at ap2, but no host there/);
    }
    for (const user of ['bob', 'eve', 'kim'])
      for (const desk of desks.get(user) ?? []) expect((await centerVm(system, desk)).vm.site).toBe('ap1');
  },
  TIMEOUT_MS,
);

/**
 * Users who had more than their share while this move waited. Between two starts of one user each other one may have one,
 * besides what the link took before they waited for each other.
 */
function waitedBehind(move: MoveRecord, moves: readonly MoveRecord[]): string[] {
  const { requestedAtMs, startedAtMs, user } = move;
  const meanwhile = moves.filter(
    (other) =>
      other !== move &&
      (other.startedAtMs ?? 0) >= requestedAtMs &&
      (other.startedAtMs ?? 0) < (startedAtMs ?? 0),
  );
  const own = meanwhile.filter((other) => other.user === user).length;
  return [...Map.groupBy(meanwhile, (other) => other.user ?? '')]
    .filter(([other, { length }]) => other !== user && length > own + 1 + MOVES_PER_LINK)
    .map(([other, { length }]) => `${other} began ${length} while ${user} waited with ${own}`);
}
