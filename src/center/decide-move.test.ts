import { describe, expect, test } from 'vitest';
import { decideMove, type MoveAction, type MoveSituation } from './decide-move.ts';

const to = (
  site: string,
  phase: 'before-switch' | 'after-switch',
  byUser = false,
): MoveSituation['active'] => ({ to: site, phase, byUser });

describe('what is done about a VM', () => {
  test.each<[string, string, string, string, MoveSituation['active'], MoveAction]>([
    ['it is where it should be', 'a', 'a', 'a', undefined, 'none'],
    ['its user is elsewhere', 'a', 'b', 'b', undefined, 'start'],
    ['its user is elsewhere, and there is no room', 'a', 'b', 'a', undefined, 'none'],
    ['it is on its way there', 'a', 'b', 'b', to('b', 'before-switch'), 'none'],
    ['on its way, and its own reservation fills the site', 'a', 'b', 'a', to('b', 'before-switch'), 'none'],
    ['the user has gone on before the switch', 'a', 'c', 'c', to('b', 'before-switch'), 'redirect'],
    ['the user has come back before the switch', 'a', 'a', 'a', to('b', 'before-switch'), 'redirect'],
    ['the user has gone on after the switch', 'a', 'c', 'c', to('b', 'after-switch'), 'queue'],
    ['the user has come back after the switch', 'a', 'a', 'a', to('b', 'after-switch'), 'queue'],
    ['somebody has asked for it', 'a', 'c', 'c', to('b', 'before-switch', true), 'queue'],
  ])('%s', (_, at, wanted, decided, active, action) => {
    expect(decideMove({ at, wanted, decided, active })).toBe(action);
  });
});
