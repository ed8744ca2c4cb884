import { writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { MOVES_PER_LINK } from '../../src/center/constants.ts';
import type { TwoTier } from '../../src/lab/two-tier.ts';
import { dayOf, figuresOf, loaded, MoveLog, mostPerLink } from '../kit/roam.ts';
import { OwnerWatch } from '../kit/ownerWatch.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';
import { deskOf, present, settledAt, twoTier, verified } from '../kit/twoTier.ts';

/** `npm run test:roam` sets the whole day: 10 users, 200 events. */
const USERS = Number(process.env.CLOUDAP_ROAM_USERS ?? 4);
const EVENTS = Number(process.env.CLOUDAP_ROAM_EVENTS ?? 24);
const SEED = Number(process.env.CLOUDAP_ROAM_SEED ?? 20261127);
/** Mean pause between two events. */
const PAUSE_MS = Number(process.env.CLOUDAP_ROAM_PAUSE_MS ?? 1200);
/** File for the day's figures. */
const { CLOUDAP_ROAM_OUT } = process.env;
const TIMEOUT_MS = 300_000 + EVENTS * 15_000;
const AP_COUNT = 3;
const users = Array.from({ length: USERS }, (_, i) => `user${i + 1}`);

let dir: TempDir;
let system: TwoTier;
const desks = new Map<string, string>();

beforeAll(async () => {
  dir = await tempDir();
  system = await twoTier(dir, AP_COUNT, 2);
  for (const user of users) desks.set(user, await deskOf(system, user, { memoryMiB: 96 }));
  for (const desk of desks.values()) await loaded(system, desk, 4);
}, TIMEOUT_MS);
afterAll(async () => {
  await system?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

test(
  `${USERS} users walk about, ${EVENTS} events (CLOUDAP_ROAM_SEED=${SEED}): every VM is where the policy says, none lost, none doubled, each intact`,
  async () => {
    await using watch = OwnerWatch.start(system);
    await using log = MoveLog.start(system);
    const day = dayOf({
      seed: SEED,
      users,
      sites: system.files.aps,
      events: EVENTS,
      pauseMs: PAUSE_MS,
    });
    for (const { afterMs, user, site, kind } of day.events) {
      await sleep(afterMs);
      await present(system, user, site, kind);
    }
    for (const [user, desk] of desks) {
      const wanted = day.last.get(user) ?? 'center';
      const { vm, decision } = await settledAt(system, desk, wanted);
      expect(decision?.site).toBe(wanted);
      expect(await verified(system, vm.host, desk)).toMatch(/^verify ok/);
    }
    await watch[Symbol.asyncDispose]();
    expect(watch.violations).toEqual([]);
    const [owners, qemus] = [await watch.owners(), await watch.qemus()];
    expect([...owners.keys()].toSorted()).toEqual([...desks.values()].toSorted());
    for (const [vm, { length }] of owners) expect([vm, length]).toEqual([vm, 1]);
    expect(qemus.map(({ vm }) => vm).toSorted()).toEqual([...desks.values()].toSorted());
    const moves = await log.look();
    for (const move of moves) expect(move.endedAtMs).not.toBeNull();
    expect(mostPerLink(moves)).toBeLessThanOrEqual(MOVES_PER_LINK);
    expect(moves.filter(({ state }) => state === 'completed').length).toBeGreaterThan(0);
    const figures = { users: USERS, events: EVENTS, seed: SEED, ...figuresOf(moves) };
    const seen = { ...figures, looks: watch.looks, frozenPairsSeen: watch.pairs };
    if (CLOUDAP_ROAM_OUT) await writeFile(CLOUDAP_ROAM_OUT, `${JSON.stringify(seen, null, 2)}\n`);
  },
  TIMEOUT_MS,
);
