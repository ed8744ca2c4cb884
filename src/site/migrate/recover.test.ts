import { describe, expect, it } from 'vitest';
import { fakePair, introduce, startAgent } from '../../../test/kit/fakePair.ts';
import { clean, ended, stays, switchOver, underWay } from '../../../test/kit/fakePairSteps.ts';
import { tempDir } from '../../../test/kit/tempdir.ts';
import { errorCode } from '../../base/errors.ts';

describe('after the switch nothing is removed', () => {
  it('and a cancel comes too late', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    await switchOver(center, ap1);
    await expect(center.migrations.cancel(id)).rejects.toMatchObject({ code: 'MIGRATE_TOO_LATE' });
    await expect(ap1.migrations.abort('center', { migrationId: id, reason: 'x' })).rejects.toMatchObject({
      code: 'MIGRATE_TOO_LATE',
    });
    expect((await center.migrations.get(id)).active).toBe(true);
  });

  it('when both movers die: both sides are degraded, and say so', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    await switchOver(center, ap1);
    ap1.host.qemu.independent = false;
    ap1.host.mover.finish();
    expect(await ended(ap1, id)).toMatchObject({ error: { code: 'MIGRATE_DEGRADED' } });
    center.host.mover.finish();
    expect(await ended(center, id)).toMatchObject({ error: { code: 'MIGRATE_DEGRADED' } });
    for (const agent of [center, ap1]) {
      expect(agent.vm.problem?.code).toBe('MIGRATE_DEGRADED');
      expect(agent.host.runningQemus).toBe(1);
      await expect(agent.vms.stop(agent.vm)).rejects.toMatchObject({ code: 'VM_DEGRADED' });
    }
    await expect(center.vms.start(center.vm)).rejects.toMatchObject({ code: 'VM_RUNNING' });
    await expect(center.vms.remove(center.vm)).rejects.toMatchObject({ code: 'VM_RUNNING' });
    // it survives a restart of the agents
    center.kill();
    const again = await startAgent(center.config, center.host);
    introduce(again, ap1);
    expect(again.vm.problem?.code).toBe('MIGRATE_DEGRADED');
  });

  it('when the source’s mover dies and the target had not taken over: the source takes the VM back', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    await center.setOwnership({ state: 'offered', peer: 'ap1' });
    center.host.mover.tell({ state: 'switching' });
    center.host.qemu.state = 'postmigrate';
    center.host.mover.finish();
    expect(await ended(center, id)).toMatchObject({ state: 'failed', error: { code: 'MIGRATE_MOVER_LOST' } });
    expect(ap1.calls).toContain('migration.outcome');
    await stays(center);
    expect(center.host.qemu.state).toBe('running');
    await clean(ap1);
  });

  it('when nobody can be asked: the answer comes with the next connection', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    await center.setOwnership({ state: 'offered', peer: 'ap1' });
    center.connected = false;
    center.host.mover.finish({ state: 'failed', error: { code: 'LINK_LOST', message: 'm', remedy: 'r' } });
    expect(await ended(center, id)).toMatchObject({
      error: { code: 'MIGRATE_DEGRADED', fields: { cause: 'LINK_LOST' } },
    });
    expect(await center.ownership()).toMatchObject({ state: 'offered' });
    center.connected = true;
    await center.migrations.onPeerConnected('ap1');
    await stays(center);
    await clean(ap1);
    expect(await center.migrations.get(id)).toMatchObject({ state: 'failed' });
  });

  it('the operator takes the VM back, from a target that cannot be reached', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    await expect(ap1.migrations.takeBack(id)).rejects.toMatchObject({ code: 'MOVER_TOO_LATE' });
    await switchOver(center, ap1);
    center.host.qemu.state = 'postmigrate';
    center.host.mover.finish();
    expect(await ended(center, id)).toMatchObject({ error: { code: 'MIGRATE_DEGRADED' } });
    // it answers, and says that the VM runs there
    await expect(center.migrations.takeBack(id)).rejects.toMatchObject({ code: 'MOVER_TARGET_ALIVE' });
    center.connected = false;
    expect(await center.migrations.takeBack(id)).toMatchObject({
      state: 'failed',
      error: { code: 'MOVER_TAKEN_BACK' },
    });
    expect(await center.ownership()).toMatchObject({ owner: 'center', generation: 3, state: 'owned' });
    expect(center.host.qemu.state).toBe('running');
    expect(center.vm.problem).toBeUndefined();
    await expect(center.migrations.takeBack(id)).rejects.toMatchObject({ code: 'MIGRATE_ENDED' });
    await expect(center.migrations.takeBack('mig-unknown')).rejects.toMatchObject({
      code: 'MIGRATE_UNKNOWN',
    });
    center.kill();
    const again = await startAgent(center.config, center.host);
    expect(again.vm.problem).toBeUndefined();
  });

  it('when the target became independent meanwhile: the source cleans up', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    await switchOver(center, ap1);
    await center.setOwnership({ owner: 'ap1', generation: 2, state: 'owned' });
    ap1.host.mover.finish({ state: 'completed' });
    await ended(ap1, id);
    center.host.mover.finish();
    expect(await ended(center, id)).toMatchObject({ state: 'completed' });
    expect(await center.residue()).toEqual([]);
  });
});

describe('an agent that is started again', () => {
  it('follows the movers that went on, at either side', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    center.kill();
    ap1.kill();
    const newCenter = await startAgent(center.config, center.host);
    const newAp1 = await startAgent(ap1.config, ap1.host);
    introduce(newCenter, newAp1);
    expect(await newCenter.migrations.get(id)).toMatchObject({ active: true, state: 'connecting' });
    expect(newCenter.vm.busy).toBe('migrate');
    await switchOver(newCenter, newAp1);
    await newCenter.setOwnership({ owner: 'ap1', generation: 2, state: 'owned' });
    newAp1.host.mover.finish({ state: 'completed' });
    newCenter.host.mover.finish({ state: 'completed' });
    await ended(newCenter, id);
    await ended(newAp1, id);
    expect(await newCenter.residue()).toEqual([]);
    expect(newAp1.vm.definition.name).toBe('desk');
  });

  it('removes a VM that was coming when its mover is gone', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    await underWay(center, ap1);
    ap1.kill();
    ap1.host.mover.killed = true;
    const again = await startAgent(ap1.config, ap1.host);
    await clean(again);
  });

  it('keeps a VM that had arrived although its mover is gone', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    await underWay(center, ap1);
    await switchOver(center, ap1);
    ap1.kill();
    ap1.host.mover.killed = true;
    ap1.host.qemu.independent = false;
    const degraded = await startAgent(ap1.config, ap1.host);
    expect(degraded.vm.problem?.code).toBe('MIGRATE_DEGRADED');
    degraded.kill();
    ap1.host.qemu.independent = true;
    const whole = await startAgent(ap1.config, ap1.host);
    expect(whole.vm.problem).toBeUndefined();
    expect(whole.host.runningQemus).toBe(1);
  });

  it('lets the VM go on when it was killed while it prepared', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    center.kill();
    center.host.mover.killed = true;
    const again = await startAgent(center.config, center.host);
    introduce(again, ap1);
    expect(await again.migrations.get(id)).toMatchObject({
      state: 'failed',
      error: { code: 'MIGRATE_MOVER_LOST' },
    });
    await stays(again);
  });
});

describe('what may not be asked', () => {
  it('of this site', async () => {
    await using dir = await tempDir();
    const { center } = await fakePair(dir);
    const ask = (to: string) => center.migrations.start({ vm: 'desk', to }).catch(errorCode);
    expect(await ask('center')).toBe('MIGRATE_TO_SELF');
    expect(await ask('ap9')).toBe('SITE_UNKNOWN');
    center.connected = false;
    expect(await ask('ap1')).toBe('SITE_NOT_CONNECTED');
    await stays(center);
  });

  it('by a site that it does not concern', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const migrationId = await underWay(center, ap1);
    const abort = ap1.migrations.abort('ap7', { migrationId, reason: 'mine' }).catch(errorCode);
    expect(await abort).toBe('MIGRATE_UNKNOWN');
    expect(await ap1.migrations.outcome('ap7', { migrationId }).catch(errorCode)).toBe('MIGRATE_UNKNOWN');
    expect(await center.migrations.abort('ap1', { migrationId, reason: 'x' }).catch(errorCode)).toBe(
      'MIGRATE_UNKNOWN',
    );
    expect((await ap1.migrations.get(migrationId)).active).toBe(true);
  });

  it('after an abort that came first', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const migrationId = 'mig-0123456789ab';
    expect(await ap1.migrations.outcome('center', { migrationId })).toEqual({
      migrationId,
      outcome: 'aborted',
    });
    const request = {
      version: 1,
      migrationId,
      source: 'center',
      target: 'ap1',
      vm: center.vm.definition,
      generation: 1,
      qemuVersion: '7.2.22',
      overlayBytes: 1,
      sourceDials: false,
      linkLossTimeoutMs: 5000,
    };
    expect(await ap1.migrations.prepare('center', request).catch(errorCode)).toBe('MIGRATE_CANCELLED');
    await clean(ap1);
  });
});
