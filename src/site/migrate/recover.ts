import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { asCloudapError } from '../../base/errors.ts';
import type { MoverHandle } from '../../migration/mover/handle.ts';
import { readOwnership } from '../../migration/ownership.ts';
import { migrationRecordSchema } from '../../migration/record.ts';
import { failMigrate } from '../errors.ts';
import { readJson } from '../json-file.ts';
import type { StoredVm } from '../vm/store.ts';
import type { MigrateContext } from './context.ts';
import type { MigrationEntry } from './entry.ts';
import { activeFileSchema, type ActiveFile } from './messages.ts';
import { followSource, settleSource } from './source.ts';
import { settleTarget, watchTarget } from './target.ts';

type AddEntry = (info: ActiveFile, vm: StoredVm | undefined) => MigrationEntry;

/** Brings the site's files, processes and memory together again after the agent was away. */
export async function recoverMigrations(context: MigrateContext, add: AddEntry): Promise<void> {
  const taken = new Set<string>();
  for (const info of await activeFiles(context)) {
    taken.add(info.migrationId);
    await recoverOne(context, add, info);
  }
  await removeStaleTargets(context);
  await removeStaleSockets(context, taken);
  await context.residue.sweep(
    (migration) => taken.has(migration),
    (vmId) => context.vms.store.has(vmId),
  );
}

async function activeFiles(context: MigrateContext): Promise<ActiveFile[]> {
  const { migrationsDir } = context.paths;
  const found: ActiveFile[] = [];
  for (const name of await readdir(migrationsDir)) {
    if (name.endsWith('.next')) await rm(join(migrationsDir, name), { force: true });
    if (!name.endsWith('.active.json')) continue;
    try {
      const info = await readJson(join(migrationsDir, name), activeFileSchema);
      if (info) found.push(info);
    } catch (error) {
      context.log.error({ file: name, err: asCloudapError(error).message }, 'unreadable migration file');
    }
  }
  return found;
}

async function recoverOne(context: MigrateContext, add: AddEntry, info: ActiveFile): Promise<void> {
  const vm = context.vms.store.has(info.vmId) ? context.vms.store.get(info.vmId) : undefined;
  const entry = add(info, vm);
  const log = context.log.child({ migration: info.migrationId, role: info.role });
  const mover = await context.backends.movers.adopt(entry.paths.rpcSocket);
  if (!vm) {
    await mover?.kill();
    return endWithoutVm(entry);
  }
  if (mover) {
    log.info({ pid: mover.pid }, 'mover adopted');
    await entry.attach(mover);
    follow(context, entry, vm, mover);
    return;
  }
  log.warn('the mover of this migration is gone');
  const settle = info.role === 'source' ? settleSource : settleTarget;
  await settle(context, entry, vm, undefined, undefined);
}

function follow(context: MigrateContext, entry: MigrationEntry, vm: StoredVm, mover: MoverHandle): void {
  if (entry.info.role === 'source') void followSource(context, entry, vm, mover);
  else {
    // the last agent may have ended before it could say so
    if (context.vms.qemu(vm)) mover.qemuStarted().catch(() => {});
    void watchTarget(context, entry, vm, mover);
  }
}

/** The agent ended between removing the VM and noting the end, or before the VM had a directory. */
async function endWithoutVm(entry: MigrationEntry): Promise<void> {
  const record = await readJson(entry.paths.recordFile, migrationRecordSchema).catch(() => undefined);
  if (entry.info.role === 'source' && record?.ok) return entry.end('completed', null);
  const error = failMigrate('MIGRATE_MOVER_LOST', entry.id).toJSON();
  return entry.end('failed', { ...error, fields: {} });
}

/** A directory in state `incoming` that no migration claims: the agent ended while it prepared. */
async function removeStaleTargets(context: MigrateContext): Promise<void> {
  for (const vm of context.vms.store.list()) {
    const ownership = await readOwnership(vm.paths.ownershipFile).catch(() => undefined);
    if (ownership?.state !== 'incoming' || vm.busy !== undefined) continue;
    const claimed = await readdir(context.paths.migrationsDir);
    if (await isClaimed(context, claimed, vm)) continue;
    const qemu = context.vms.qemu(vm);
    if (qemu) {
      await qemu.kill();
      await context.vms.settleEnd(vm, qemu);
    }
    await context.vms.store.remove(vm);
    context.log.warn({ vm: vm.definition.id }, 'removed what was left of a VM that never came');
  }
}

async function isClaimed(context: MigrateContext, names: string[], vm: StoredVm): Promise<boolean> {
  for (const name of names.filter((n) => n.endsWith('.active.json'))) {
    const info = await readJson(join(context.paths.migrationsDir, name), activeFileSchema).catch(
      () => undefined,
    );
    if (info?.vmId === vm.definition.id) return true;
  }
  return false;
}

async function removeStaleSockets(context: MigrateContext, migrations: ReadonlySet<string>): Promise<void> {
  const { runtimeDir, linkDir } = context.paths;
  const { store } = context.vms;
  await removeExcept(join(runtimeDir, 'm'), (name) => migrations.has(name));
  await removeExcept(
    join(runtimeDir, 'v'),
    (name) => store.has(name) && context.vms.qemu(store.get(name)) !== undefined,
  );
  await removeExcept(
    linkDir,
    // pushes end with their agent
    (name) => !/^(mig|psh)-/.test(name) || migrations.has(name.replace(/\.sock$/, '')),
  );
}

async function removeExcept(directory: string, keep: (name: string) => boolean): Promise<void> {
  for (const name of await readdir(directory).catch(() => [])) {
    if (!keep(name)) await rm(join(directory, name), { recursive: true, force: true });
  }
}
