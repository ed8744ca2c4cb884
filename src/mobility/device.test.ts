import { describe, expect, test } from 'vitest';
import { FLAP_SETTLE_MS, LEAVE_GRACE_MS } from './constants.ts';
import { elapsed, sighted, unseen, type DeviceState, type Sighting } from './device.ts';

/** What a device counts as, each time that changes. */
function places(trace: readonly Sighting[], untilMs: number): { site: string | null; atMs: number }[] {
  const seen: { site: string | null; atMs: number }[] = [];
  let state: DeviceState = unseen;
  const note = (next: DeviceState, atMs: number): void => {
    if (next.site !== state.site) seen.push({ site: next.site, atMs });
    state = next;
  };
  let next = 0;
  for (let nowMs = 0; nowMs <= untilMs; nowMs += 100) {
    for (; next < trace.length && (trace[next]?.atMs ?? 0) <= nowMs; next++)
      note(sighted(state, trace[next] as Sighting), nowMs);
    note(elapsed(state, nowMs), nowMs);
  }
  return seen;
}

const at = (atMs: number, kind: Sighting['kind'], site: string): Sighting => ({ atMs, kind, site });

describe('where a device counts as being', () => {
  test('a clear arrival counts at once, whatever the last site says and when', () => {
    expect(
      places([at(1000, 'arrive', 'a'), at(60_000, 'arrive', 'b'), at(60_400, 'leave', 'a')], 90_000),
    ).toEqual([
      { site: 'a', atMs: 1000 },
      { site: 'b', atMs: 60_000 },
    ]);
  });

  test('a leave counts after a while; a return in between is none', () => {
    const trace = [
      at(0, 'arrive', 'a'),
      at(5000, 'leave', 'a'),
      at(9000, 'arrive', 'a'),
      at(50_000, 'leave', 'a'),
    ];
    expect(places(trace, 90_000)).toEqual([
      { site: 'a', atMs: 0 },
      { site: null, atMs: 50_000 + LEAVE_GRACE_MS },
    ]);
  });

  test('along a boundary it is at one site, until it stays at the other', () => {
    const walk = Array.from({ length: 30 }, (_, i) => at(1000 + 2000 * i, 'arrive', i % 2 ? 'b' : 'a'));
    const seen = places(walk, 59_000 + FLAP_SETTLE_MS + 10_000);
    // two changes before it is known to flap, and one when it stays at last
    expect(seen.length).toBeLessThanOrEqual(3);
    expect(seen.at(-1)?.site).toBe('b');
  });

  test('what comes late says nothing', () => {
    const trace = [at(10_000, 'arrive', 'b'), at(4000, 'arrive', 'a'), at(5000, 'leave', 'b')];
    expect(places(trace, 60_000)).toEqual([{ site: 'b', atMs: 10_000 }]);
  });
});
