import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { MoveQueue, type Turn } from './queue.ts';

const turn = (id: string, user: string, from: string, to: string): Turn => ({
  id,
  user,
  from: { site: from, host: `${from}-h1` },
  to: { site: to, host: null },
});
const never = new AbortController().signal;

test('so many at once on a link and from a host; users take turns; each begins in the end', async () => {
  const queue = new MoveQueue({ perLink: 2, perHost: 3 });
  const begun: string[] = [];
  const slots = new Map<string, Disposable>();
  const enter = (wanted: Turn): Promise<void> =>
    queue.enter(wanted, never).then((slot) => {
      begun.push(wanted.id);
      slots.set(wanted.id, slot);
    });
  const all = [
    ...Array.from({ length: 6 }, (_, i) => turn(`a${i}`, 'ann', 'center', 'ap1')),
    turn('b0', 'bob', 'center', 'ap1'),
    turn('c0', 'eve', 'center', 'ap2'),
    turn('d0', 'eve', 'ap3', 'center'),
  ].map((wanted) => enter(wanted));
  await new Promise((resolve) => setImmediate(resolve));
  // two on the first link, one on the second; that fills the host; the fourth has a link and a host of its own
  expect(begun.toSorted()).toEqual(['a0', 'a1', 'c0', 'd0']);
  while (slots.size > 0) {
    const [id = '', slot] = [...slots][0] ?? [];
    slots.delete(id);
    slot?.[Symbol.dispose]();
    await new Promise((resolve) => setImmediate(resolve));
    expect([...slots.keys()].filter((other) => /^[ab]/.test(other)).length).toBeLessThanOrEqual(2);
    expect(slots.size).toBeLessThanOrEqual(4);
  }
  await Promise.all(all);
  expect(begun).toHaveLength(9);
  // ann had six waiting and bob came last: he did not wait for all of them
  expect(begun.indexOf('b0')).toBeLessThan(begun.indexOf('a3'));
  expect(begun.filter((id) => id.startsWith('a'))).toEqual(['a0', 'a1', 'a2', 'a3', 'a4', 'a5']);
});

test('who gives up waits no more, and holds no place', async () => {
  const queue = new MoveQueue({ perLink: 1, perHost: 1 });
  const first = await queue.enter(turn('1', 'a', 'x', 'y'), never);
  const gone = new AbortController();
  const second = queue.enter(turn('2', 'b', 'x', 'y'), gone.signal);
  gone.abort(new Error('gone'));
  await expect(second).rejects.toThrow('gone');
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  (await queue.enter(turn('3', 'c', 'x', 'y'), never))[Symbol.dispose]();
  expect([queue.waiting, queue.running]).toEqual([0, 0]);
});

test('whatever comes, and in whatever order it ends: never more than the limits, a user’s moves in order, none is left', async () => {
  const sites = fc.constantFrom('center', 'ap1', 'ap2');
  const wanted = fc.record({ user: fc.constantFrom('a', 'b', 'c'), from: sites, to: sites });
  await fc.assert(
    fc.asyncProperty(
      fc.array(wanted, { maxLength: 30 }),
      fc.array(fc.nat(1000), { minLength: 30, maxLength: 30 }),
      async (all, order) => {
        const queue = new MoveQueue({ perLink: 2, perHost: 3 });
        const running = new Map<string, { turn: Turn; slot: Disposable }>();
        const begun: Turn[] = [];
        const entered = all.map(async ({ user, from, to }, i) => {
          const mine = turn(`${i}`, user, from, to);
          const slot = await queue.enter(mine, never);
          begun.push(mine);
          running.set(mine.id, { turn: mine, slot });
        });
        for (let i = 0; i < all.length; i += 1) {
          await new Promise((resolve) => setImmediate(resolve));
          const now = [...running.values()];
          const most = (of: (one: Turn) => string): number =>
            Math.max(0, ...[...Map.groupBy(now, (one) => of(one.turn)).values()].map(({ length }) => length));
          expect(most(({ from, to }) => [from.site, to.site].toSorted().join())).toBeLessThanOrEqual(2);
          expect(most(({ from }) => from.host)).toBeLessThanOrEqual(3);
          // something always runs while something waits
          expect(now.length).toBeGreaterThan(0);
          const [id, one] = [...running][(order[i] ?? 0) % running.size] ?? [];
          running.delete(id ?? '');
          one?.slot[Symbol.dispose]();
        }
        await Promise.all(entered);
        expect([begun.length, queue.waiting, queue.running]).toEqual([all.length, 0, 0]);
        for (const [, own] of Map.groupBy(begun, (one) => `${one.user} ${one.from.site} ${one.to.site}`)) {
          const ids = own.map(({ id }) => Number(id));
          expect(ids).toEqual(ids.toSorted((a, b) => a - b));
        }
      },
    ),
    { numRuns: 60 },
  );
});
