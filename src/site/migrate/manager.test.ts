import { access } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { fakePair } from '../../../test/kit/fakePair.ts';
import { clean, ended, stays, switchOver, underWay } from '../../../test/kit/fakePairSteps.ts';
import { tempDir } from '../../../test/kit/tempdir.ts';
import { errorCode } from '../../base/errors.ts';

describe('a migration that goes well', () => {
  it('gives both movers what they need, hands the VM over, and leaves only the record behind', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const before = center.vm.definition;
    const id = await underWay(center, ap1);
    const source = center.host.mover.config;
    const target = ap1.host.mover.config;
    expect(source).toMatchObject({
      role: 'source',
      siteId: 'center',
      peerSiteId: 'ap1',
      link: { mode: 'listen' },
      vm: { generation: 1 },
    });
    expect(target).toMatchObject({
      role: 'target',
      siteId: 'ap1',
      generation: 1,
      link: { mode: 'dial', route: id, address: { port: 7411 } },
    });
    expect(ap1.host.qemu.request.incoming?.nbdSocket).toBe(target.role === 'target' ? target.nbdSocket : '');
    expect(await ap1.ownership()).toMatchObject({ owner: 'center', generation: 1, state: 'incoming' });
    expect(center.vm.busy).toBe('migrate');
    const busy = await center.migrations.start({ vm: 'desk', to: 'ap1' }).catch(errorCode);
    expect(busy).toBe('MIGRATE_BUSY');
    await expect(center.vms.stop(center.vm)).rejects.toMatchObject({ code: 'VM_BUSY' });

    await switchOver(center, ap1);
    await center.setOwnership({ owner: 'ap1', generation: 2, state: 'owned' });
    ap1.host.mover.finish({ state: 'completed' });
    center.host.mover.finish({ state: 'completed' });
    expect(await ended(center, id)).toMatchObject({ state: 'completed', error: null, role: 'source' });
    expect(await ended(ap1, id)).toMatchObject({ state: 'completed', error: null, role: 'target' });
    expect(await center.residue()).toEqual([]);
    expect(center.host.runningQemus).toBe(0);
    expect(ap1.vm.definition).toEqual(before);
    expect(ap1.vm.busy).toBeUndefined();
    await expect(access(ap1.vm.paths.top)).rejects.toThrow('ENOENT');
    expect(await ap1.ownership()).toMatchObject({ owner: 'ap1', generation: 2, state: 'owned' });

    // and back again, this time dialled by the source
    const back = await ap1.migrations.start({ vm: 'desk', to: 'center' });
    await expect.poll(() => center.host.movers.length).toBe(2);
    await expect.poll(() => ap1.host.movers.length).toBe(2);
    expect(ap1.host.mover.config).toMatchObject({ link: { mode: 'dial' }, vm: { generation: 2 } });
    expect(center.host.mover.config).toMatchObject({ link: { mode: 'listen' }, generation: 2 });
    await ap1.migrations.cancel(back.migrationId);
    await clean(center);
  });

  it('tells followers every state, and ends their stream', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    const states: string[] = [];
    const followed = (async () => {
      for await (const view of center.migrations.follow(id, new AbortController().signal))
        states.push(view.state);
    })();
    await expect.poll(() => states.length).toBe(1);
    await switchOver(center, ap1);
    await expect.poll(() => states.at(-1)).toBe('switching');
    await center.setOwnership({ owner: 'ap1', generation: 2, state: 'owned' });
    center.host.mover.finish({ state: 'completed' });
    await followed;
    expect(states.at(-1)).toBe('completed');
    const left = new AbortController();
    left.abort();
    for await (const _ of center.migrations.follow(id, left.signal)) break;
  });
});

describe('before the switch the VM goes on at the source, and the target is clean', () => {
  it('when the target says no', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    ap1.host.freeBytes = 0;
    const { migrationId } = await center.migrations.start({ vm: 'desk', to: 'ap1' });
    const view = await ended(center, migrationId);
    expect(view).toMatchObject({ state: 'failed', error: { code: 'PREPARE_NO_DISK' } });
    expect(view.error?.remedy).toContain('Free space');
    await stays(center);
    await clean(ap1);
    expect(ap1.host.movers).toHaveLength(0);
  });

  it.each([
    ['mover', 'moverFails'],
    ['QEMU', 'startFails'],
  ] as const)('when the %s of the target does not start', async (_what, which) => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    ap1.host[which] = new Error('no');
    const { migrationId } = await center.migrations.start({ vm: 'desk', to: 'ap1' });
    expect(await ended(center, migrationId)).toMatchObject({ error: { code: 'PREPARE_FAILED' } });
    await stays(center);
    await clean(ap1);
  });

  it('when the source’s own mover does not start', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    center.host.moverFails = new Error('no');
    const { migrationId } = await center.migrations.start({ vm: 'desk', to: 'ap1' });
    expect(await ended(center, migrationId)).toMatchObject({ state: 'failed', error: { code: 'INTERNAL' } });
    await stays(center);
    await clean(ap1);
  });

  it.each(['connecting', 'precopy'] as const)('when it is cancelled while %s', async (state) => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    center.host.mover.tell({ state, link: 'open' });
    expect(await center.migrations.cancel(id)).toMatchObject({
      state: 'cancelled',
      error: { code: 'MIGRATE_CANCELLED' },
    });
    await stays(center);
    expect(center.host.qemu.resumed).toBe(1);
    expect(await ended(ap1, id)).toMatchObject({ state: 'cancelled' });
    await clean(ap1);
    await expect(center.migrations.cancel(id)).rejects.toMatchObject({ code: 'MIGRATE_ENDED' });
    // and the next attempt finds everything ready
    await underWay(center, ap1);
  });

  it('when it is cancelled while the target prepares', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const { promise, resolve } = Promise.withResolvers<void>();
    const images = ap1.host.image;
    Object.defineProperty(ap1.host, 'image', { get: () => images });
    const serve = ap1.serve.bind(ap1);
    ap1.serve = async (...args) => {
      if (args[1] === 'migration.prepare') await promise;
      return serve(...args);
    };
    const { migrationId } = await center.migrations.start({ vm: 'desk', to: 'ap1' });
    const cancelled = center.migrations.cancel(migrationId);
    // the abort overtakes the prepare, which comes too late
    await expect.poll(() => ap1.calls).toContain('migration.prepare');
    resolve();
    await cancelled;
    await stays(center);
    await clean(ap1);
  });

  it('when either mover dies without a word', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const first = await underWay(center, ap1);
    center.host.mover.finish();
    expect(await ended(center, first)).toMatchObject({
      state: 'failed',
      error: { code: 'MIGRATE_MOVER_LOST' },
    });
    await stays(center);
    await clean(ap1);

    const second = await underWay(center, ap1);
    ap1.host.mover.finish();
    expect(await ended(ap1, second)).toMatchObject({ error: { code: 'MIGRATE_MOVER_LOST' } });
    await clean(ap1);
    center.host.mover.finish({
      state: 'failed',
      error: { code: 'MOVER_PEER_FAILED', message: 'm', remedy: 'r' },
    });
    expect(await ended(center, second)).toMatchObject({ error: { code: 'MOVER_PEER_FAILED' } });
    await stays(center);
  });

  it('when the source never comes', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir, { sourceMoverMs: 50 });
    const id = await underWay(center, ap1);
    expect(await ended(ap1, id)).toMatchObject({ state: 'failed', error: { code: 'PREPARE_ABANDONED' } });
    await clean(ap1);
  });

  it('when the target was told of nothing, it cleans up by itself', async () => {
    await using dir = await tempDir();
    const { center, ap1 } = await fakePair(dir);
    const id = await underWay(center, ap1);
    // a cancel would end the request to prepare, which tells the target
    await expect.poll(() => ap1.host.mover.qemuIsUp).toBe(true);
    center.connected = false;
    await center.migrations.cancel(id);
    await stays(center);
    ap1.host.mover.finish({ state: 'failed', error: { code: 'LINK_LOST', message: 'm', remedy: 'r' } });
    expect(await ended(ap1, id)).toMatchObject({ error: { code: 'LINK_LOST' } });
    await clean(ap1);
  });
});
