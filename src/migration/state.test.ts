import { expect, test } from 'vitest';
import { codeOf } from '../../test/kit/qemuStream.ts';
import {
  isBeforeSwitch,
  isTerminal,
  migrationStates,
  MigrationStateMachine,
  type MigrationState,
} from './state.ts';

/** A machine brought to the state by the shortest way. */
function machineIn(state: MigrationState): MigrationStateMachine {
  const line: MigrationState[] = ['precopy', 'switching', 'postcopy', 'finalizing', 'completed'];
  const machine = new MigrationStateMachine();
  if (state === 'connecting') return machine;
  const way = line.includes(state) ? line.slice(0, line.indexOf(state) + 1) : [state];
  for (const step of way) machine.transition(step);
  return machine;
}

const allowed: Record<MigrationState, string> = {
  connecting: 'precopy cancelled failed',
  precopy: 'switching cancelled failed',
  switching: 'postcopy cancelled failed',
  postcopy: 'finalizing failed',
  finalizing: 'completed failed',
  completed: '',
  cancelled: '',
  failed: '',
};

test.each(migrationStates)('the ways out of %s', (from) => {
  for (const to of migrationStates) {
    const machine = machineIn(from);
    const heard: MigrationState[] = [];
    machine.onChange((state) => heard.push(state));
    const ok = allowed[from].split(' ').includes(to);
    expect(codeOf(() => machine.transition(to))).toBe(ok ? 'none' : 'MIGRATION_STATE');
    expect(machine.state).toBe(ok ? to : from);
    expect(heard).toEqual(ok ? [to] : []);
  }
  expect(isTerminal(from)).toBe(allowed[from] === '');
});

test('a VM that may have left is never "before the switch"', () => {
  expect(migrationStates.filter(isBeforeSwitch)).toEqual(['connecting', 'precopy']);
});
