/** What is so when a decision on a VM is looked at. */
export interface MoveSituation {
  /** Where the VM is. */
  readonly at: string;
  /** Where the user's place wants it: the user's site, or its home. */
  readonly wanted: string;
  /** Where the decision, which weighs room and loads, too, wants it. */
  readonly decided: string;
  /** Its move under way, if there is one. */
  readonly active:
    | { readonly to: string; readonly byUser: boolean; readonly phase: 'before-switch' | 'after-switch' }
    | undefined;
}

/**
 * `none`: nothing to do. `start`: move it to where it was decided. `redirect`: abort the move under way; the next look
 * starts the right one, if any. `queue`: the move under way ends as it began, and the next look starts the right one.
 */
export type MoveAction = 'none' | 'start' | 'redirect' | 'queue';

interface Rule {
  readonly when: (situation: MoveSituation) => boolean;
  readonly action: MoveAction;
}

/** The first rule that holds decides. */
const RULES: readonly Rule[] = [
  { when: ({ active, at, decided }) => !active && at === decided, action: 'none' },
  { when: ({ active }) => !active, action: 'start' },
  // it goes to the right place; a decision made while it is under way counts it as still at its source
  { when: ({ active, wanted, decided }) => active?.to === wanted || active?.to === decided, action: 'none' },
  // what somebody has asked for is not undone under way
  { when: ({ active }) => active?.byUser === true, action: 'queue' },
  { when: ({ active }) => active?.phase === 'after-switch', action: 'queue' },
  { when: () => true, action: 'redirect' },
];

/** What to do about a VM, also when its user moves on while it moves. */
export function decideMove(situation: MoveSituation): MoveAction {
  return RULES.find(({ when }) => when(situation))?.action ?? 'none';
}
