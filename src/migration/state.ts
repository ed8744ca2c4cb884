import { errorCatalogue } from '../base/errors.ts';

const fail = errorCatalogue({
  MIGRATION_STATE: {
    summary: 'a migration was asked to do what its state does not allow',
    remedy: 'This is a defect in CloudAP; report it with the log.',
  },
});

/**
 * The life of a migration, the paper's three stages (Figure 3) with their ends:
 * `precopy` is round one, `switching` the freeze-and-copy, `postcopy` the pull and push of what is left,
 * `finalizing` makes the target independent. Up to the hand-over of ownership in `switching` the source can always go on.
 */
export type MigrationState =
  | 'connecting'
  | 'precopy'
  | 'switching'
  | 'postcopy'
  | 'finalizing'
  | 'completed'
  | 'cancelled'
  | 'failed';

const transitions: Readonly<Record<MigrationState, readonly MigrationState[]>> = {
  connecting: ['precopy', 'cancelled', 'failed'],
  precopy: ['switching', 'cancelled', 'failed'],
  // back to `failed` only while the target is known not to have taken over
  switching: ['postcopy', 'cancelled', 'failed'],
  postcopy: ['finalizing', 'failed'],
  finalizing: ['completed', 'failed'],
  completed: [],
  cancelled: [],
  failed: [],
};

export const migrationStates = Object.keys(transitions) as readonly MigrationState[];

export function isTerminal(state: MigrationState): boolean {
  return transitions[state].length === 0;
}

/** True while the source still owns the VM and a failure only costs the attempt. */
export function isBeforeSwitch(state: MigrationState): boolean {
  return state === 'connecting' || state === 'precopy';
}

export class MigrationStateMachine {
  #state: MigrationState = 'connecting';
  readonly #listeners: ((state: MigrationState) => void)[] = [];

  get state(): MigrationState {
    return this.#state;
  }

  /** @throws MIGRATION_STATE when the table does not have this step */
  transition(next: MigrationState): void {
    if (!transitions[this.#state].includes(next)) {
      throw fail('MIGRATION_STATE', `${this.#state} to ${next}`, { fields: { from: this.#state, to: next } });
    }
    this.#state = next;
    for (const listener of this.#listeners) listener(next);
  }

  onChange(listener: (state: MigrationState) => void): void {
    this.#listeners.push(listener);
  }
}
