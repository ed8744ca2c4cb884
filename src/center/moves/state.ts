import type { MoveRecord } from '../../control/messages.ts';

export type MoveState = MoveRecord['state'];

/** What may follow what. Terminal states are final. */
const NEXT: Readonly<Record<MoveState, readonly MoveState[]>> = {
  queued: ['placing', 'cancelled', 'failed'],
  placing: ['migrating', 'cancelled', 'failed'],
  migrating: ['completed', 'cancelled', 'failed'],
  completed: [],
  stayed: [],
  cancelled: [],
  failed: [],
};

export const isTerminal = (state: MoveState): boolean => NEXT[state].length === 0;

/** @throws Error: our own mistake */
export function checkTransition(from: MoveState, to: MoveState): void {
  if (!NEXT[from].includes(to)) throw new Error(`a move cannot go from ${from} to ${to}`);
}
