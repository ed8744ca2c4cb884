/** Steps that tests of migrations with fake movers share. */
import { expect } from 'vitest';
import type { MigrationView } from '../../src/site/api/messages.ts';
import type { FakeAgent } from './fakePair.ts';

/** Starts a migration of the center's VM and waits until both movers are there. */
export async function underWay(center: FakeAgent, ap1: FakeAgent): Promise<string> {
  const movers = [center.host.movers.length, ap1.host.movers.length];
  const { migrationId } = await center.migrations.start({ vm: 'desk', to: 'ap1' });
  await expect
    .poll(() => [center.host.movers.length, ap1.host.movers.length])
    .toEqual(movers.map((n) => n + 1));
  return migrationId;
}

export async function ended(agent: FakeAgent, id: string): Promise<MigrationView> {
  await expect.poll(async () => (await agent.migrations.get(id)).active, { timeout: 5000 }).toBe(false);
  return agent.migrations.get(id);
}

/** What the movers do at the switch. */
export async function switchOver(center: FakeAgent, ap1: FakeAgent): Promise<void> {
  center.host.mover.tell({ state: 'precopy', link: 'open' });
  ap1.host.mover.tell({ state: 'precopy', link: 'open' });
  await center.setOwnership({ state: 'offered', peer: 'ap1' });
  center.host.mover.tell({ state: 'switching' });
  await ap1.setOwnership({ owner: 'ap1', generation: 2, state: 'owned' });
  ap1.host.mover.tell({ state: 'postcopy' });
  center.host.mover.tooLate = true;
  ap1.host.mover.tooLate = true;
}

export async function stays(center: FakeAgent): Promise<void> {
  expect(await center.ownership()).toMatchObject({ owner: 'center', generation: 1, state: 'owned' });
  expect(center.host.runningQemus).toBe(1);
  expect(center.vm.busy).toBeUndefined();
  expect(center.vm.problem).toBeUndefined();
}

export async function clean(ap1: FakeAgent): Promise<void> {
  await expect.poll(() => ap1.residue()).toEqual([]);
  expect(ap1.host.runningQemus).toBe(0);
}
