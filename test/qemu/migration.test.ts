import { expect, test } from 'vitest';
import type { QemuProcess } from '../../src/qemu/process.ts';
import type { QmpMark } from '../../src/qemu/qmp-events.ts';
import { migrateDirect } from '../kit/qemu-migrate.ts';
import { startQemu, testSpec } from '../kit/qemu.ts';
import { tempDir } from '../kit/tempdir.ts';

test.each([
  ['plain', { machineType: 'pc-i440fx-7.2', preempt: false, sandbox: true }],
  ['with preemption', { machineType: 'pc-i440fx-7.2', preempt: true, sandbox: true }],
  ['of a q35 machine, unconfined', { machineType: 'pc-q35-7.2', preempt: false, sandbox: false }],
] as const)('post-copy between two QEMUs, %s', async (_, { machineType, preempt, sandbox }) => {
  await using dir = await tempDir();
  const spec = testSpec({ machineType, display: 'vga', input: 'tablet', serialPorts: 2 });
  await using source = await startQemu(dir, { name: 'source', spec, sandbox });
  await using target = await startQemu(dir, { name: 'target', spec, sandbox, incoming: true });
  expect((await target.qmp.queryStatus()).status).toBe('inmigrate');

  const { statuses, downtimeMs } = await migrateDirect(source, target, { preempt });
  expect(statuses).toContain('postcopy-active');
  expect(downtimeMs).toBeGreaterThan(0);
  expect(await target.qmp.queryStatus()).toMatchObject({ running: true, status: 'running' });
  expect(await source.qmp.queryStatus()).toMatchObject({ running: false, status: 'postmigrate' });
  expect(await source.qmp.queryMigrate()).toMatchObject({ status: 'completed' });
  expect((await source.qmp.queryMigrate()).ram?.transferred).toBeGreaterThan(0);
});

test('a migration is cancelled and the source goes on', async () => {
  await using dir = await tempDir();
  await using source = await startQemu(dir, { name: 'source' });
  await using target = await startQemu(dir, { name: 'target', incoming: true });
  await source.qmp.migrateSetCapabilities({ events: true });
  const mark = source.qmp.mark();
  const uri = `unix:${dir.file('m.sock')}`;
  await target.qmp.migrateIncoming(uri);
  await source.qmp.migrateSetParameters({ 'max-bandwidth': 10_000 });
  await source.qmp.migrate(uri);
  await source.qmp.waitEvent('MIGRATION', (e) => e.data.status === 'active', { since: mark });
  await source.qmp.migrateCancel();
  await source.qmp.waitEvent('MIGRATION', (e) => e.data.status === 'cancelled', { since: mark });
  expect(await source.qmp.queryStatus()).toMatchObject({ running: true });
});

test('a post-copy that broke is recovered, out of band at the target', async () => {
  await using dir = await tempDir();
  await using source = await startQemu(dir, { name: 'source' });
  await using target = await startQemu(dir, { name: 'target', incoming: true });
  const marks = { source: source.qmp.mark(), target: target.qmp.mark() };
  const status = (vm: QemuProcess, since: QmpMark, wanted: string) =>
    vm.qmp.waitEvent('MIGRATION', (e) => e.data.status === wanted, { since });
  for (const { qmp } of [source, target]) {
    await qmp.migrateSetCapabilities({ events: true, 'return-path': true, 'postcopy-ram': true });
  }
  await target.qmp.migrateIncoming(`unix:${dir.file('m1.sock')}`);
  // Slow in both phases: it must break while pages are still at the source.
  await source.qmp.migrateSetParameters({ 'max-bandwidth': 100_000, 'max-postcopy-bandwidth': 100_000 });
  await source.qmp.migrate(`unix:${dir.file('m1.sock')}`);
  await status(source, marks.source, 'active');
  await source.qmp.migrateStartPostcopy();
  await target.qmp.waitEvent('RESUME', undefined, { since: marks.target });
  await status(source, marks.source, 'postcopy-active');

  await source.qmp.migratePause();
  await status(source, marks.source, 'postcopy-paused');
  await status(target, marks.target, 'postcopy-paused');
  await target.qmp.migrateRecover(`unix:${dir.file('m2.sock')}`);
  await source.qmp.migrateSetParameters({ 'max-postcopy-bandwidth': 0 });
  await source.qmp.migrate(`unix:${dir.file('m2.sock')}`, { resume: true });
  await status(source, marks.source, 'completed');
  await status(target, marks.target, 'completed');
  expect(await target.qmp.queryStatus()).toMatchObject({ running: true });
});
