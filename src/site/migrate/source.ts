import { mkdir } from 'node:fs/promises';
import { asCloudapError } from '../../base/errors.ts';
import type { MoverStatus, SourceMoverConfig } from '../../migration/mover/config.ts';
import type { MoverHandle } from '../../migration/mover/handle.ts';
import { changeOwnership, readOwnership } from '../../migration/ownership.ts';
import { migrationFail } from '../../migration/messages.ts';
import { migrationRecordSchema } from '../../migration/record.ts';
import { ABORT_TIMEOUT_MS, POSTCOPY_PREEMPT } from '../constants.ts';
import { failMigrate, failSite } from '../errors.ts';
import { readJson } from '../json-file.ts';
import type { StoredVm } from '../vm/store.ts';
import { contentLogFor, contentOfVm } from './content.ts';
import { canListenFor, commonMoverConfig, type MigrateContext } from './context.ts';
import { asApiError, reportedError, type MigrationEntry } from './entry.ts';
import { outcomeSchema, preparedSchema, type Outcome, type Prepare } from './messages.ts';

export interface SourceRequest {
  memoryCodec: SourceMoverConfig['memoryCodec'];
  diskCodec: SourceMoverConfig['diskCodec'];
  scheme: SourceMoverConfig['scheme'];
  switchBudgetMs?: number | null;
}

/**
 * The source's side of one migration, from the first question to the end: ask the target while the mover that will do it
 * starts and looks for the target's (which is there once the target has said yes), and then either remove what is no longer ours or let the VM go on. Never rejects: the entry has the result.
 */
export async function runSource(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  request: SourceRequest,
): Promise<void> {
  const noMover = new AbortController();
  const prepared = prepareTarget(context, entry, vm, noMover.signal);
  // heard below; a mover that does not start must not leave it unheard
  prepared.catch(() => {});
  try {
    const mover = await startMover(context, entry, vm, request);
    prepared.catch((error: unknown) => refused(context, entry, mover, error));
    await followSource(context, entry, vm, mover);
  } catch (error) {
    noMover.abort(error);
    await prepared.catch(() => {});
    await settleSource(context, entry, vm, undefined, error);
  }
}

/**
 * The target has said no, or could not make what it takes. It says so before the source may switch: whatever comes
 * later than that (its answer may be lost with the connection) is the movers' business.
 */
function refused(context: MigrateContext, entry: MigrationEntry, mover: MoverHandle, error: unknown): void {
  entry.refusal = error;
  mover.cancel(asCloudapError(error).message).catch((err: unknown) => {
    entry.refusal = undefined;
    context.log.warn({ migration: entry.id, err: asCloudapError(err).message }, 'prepare failed too late');
  });
}

export async function followSource(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  mover: MoverHandle,
): Promise<void> {
  const last = await mover.exited;
  if (!context.closing.aborted) await settleSource(context, entry, vm, last, entry.refusal);
}

async function prepareTarget(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  noMover: AbortSignal,
): Promise<void> {
  const { peer, generation, migrationId } = entry.info;
  const signal = AbortSignal.any([entry.cancelled.signal, noMover]);
  const rpc = context.peer(peer);
  const { length } = await context.backends.disks.fileBytes(vm.paths.overlay);
  const request: Prepare = {
    version: 1,
    migrationId,
    source: context.config.id,
    target: peer,
    vm: vm.definition,
    generation,
    qemuVersion: context.vms.facts.version,
    overlayBytes: length,
    sourceDials: context.dialAddress(peer) !== undefined,
    linkLossTimeoutMs: context.config.migration.linkLossTimeoutMs,
  };
  signal.throwIfAborted();
  const answer = await rpc.call('migration.prepare', request, {
    signal,
    timeoutMs: context.timeouts.prepareMs,
  });
  preparedSchema.parse(answer);
}

async function startMover(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  request: SourceRequest,
): Promise<MoverHandle> {
  const { info } = entry;
  const { machine } = vm.definition;
  await mkdir(entry.paths.socketDir, { recursive: true, mode: 0o700 });
  const mover = await context.backends.movers.start({
    role: 'source',
    content: await contentOfVm(context, vm.definition, info),
    contentLog: await contentLogFor(context, entry),
    ...commonMoverConfig(
      context,
      info.migrationId,
      info.vmId,
      info.peer,
      context.dialAddress(info.peer) !== undefined,
    ),
    linkLossTimeoutMs: context.config.migration.linkLossTimeoutMs,
    ...request,
    zstdLevel: context.config.migration.zstdLevel,
    preempt: POSTCOPY_PREEMPT,
    initiatedAtMs: info.initiatedAtMs,
    accelerator: vm.definition.accelerator,
    qemuVersion: context.vms.facts.version,
    vm: {
      name: vm.definition.name,
      memoryMiB: machine.memoryMiB,
      cpus: machine.cpus,
      image: vm.definition.image,
      generation: info.generation,
    },
  });
  await entry.attach(mover);
  // a cancel that came while the mover started has not reached it
  if (entry.cancelled.signal.aborted) await mover.cancel('cancelled by the user').catch(() => {});
  return mover;
}

/** Ends a source's migration by what is true now: the mover's last word, and above all the ownership file. */
export async function settleSource(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  last: MoverStatus | undefined,
  thrown?: unknown,
): Promise<void> {
  const log = context.log.child({ migration: entry.id, vm: vm.definition.id });
  try {
    const cause = thrown ?? reportedError(last);
    const ownership = await readOwnership(vm.paths.ownershipFile);
    const done = last?.state === 'completed' || (await recordSaysOk(entry));
    if (done) return await release(context, entry, vm);
    if (ownership.owner === context.config.id && ownership.state === 'owned') {
      return await goOn(context, entry, vm, cause);
    }
    await askAndSettle(context, entry, vm, cause);
  } catch (error) {
    log.error({ err: error }, 'migration could not be settled');
    await degrade(context, entry, vm, error).catch((err: unknown) => {
      log.error({ err }, 'and that cannot be noted');
      entry.keep(asApiError(error));
    });
  }
}

/** The record is the mover's last act: a mover that ended while no agent looked has left its word there. */
async function recordSaysOk(entry: MigrationEntry): Promise<boolean> {
  const record = await readJson(entry.paths.recordFile, migrationRecordSchema).catch(() => undefined);
  return record?.ok === true;
}

/** The target is independent: this site keeps the record and nothing else. */
async function release(context: MigrateContext, entry: MigrationEntry, vm: StoredVm): Promise<void> {
  const qemu = context.vms.qemu(vm);
  if (qemu) {
    await qemu.quit();
    await context.vms.settleEnd(vm, qemu);
  }
  await context.vms.store.remove(vm);
  context.log.info({ migration: entry.id, vm: vm.definition.id, to: entry.info.peer }, 'VM left');
  await entry.end('completed', null);
}

/** Nothing was handed over: the VM goes on here, and the target is told to forget it. */
async function goOn(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  cause: unknown,
): Promise<void> {
  await entry.mover?.kill().catch(() => {});
  const qemu = context.vms.qemu(vm);
  if (qemu && entry.info.moverStarted) await qemu.resumeAfterFailedMigration();
  const cancelled = entry.cancelled.signal.aborted;
  const error = cancelled
    ? asApiError(entry.cancelled.signal.reason)
    : asApiError(cause ?? failMigrate('MIGRATE_MOVER_LOST', entry.id));
  await abortAtTarget(context, entry, error.message);
  context.log.warn({ migration: entry.id, vm: vm.definition.id, code: error.code }, 'VM goes on here');
  await entry.end(cancelled || error.code === 'MOVER_CANCELLED' ? 'cancelled' : 'failed', error);
}

/** Best effort: a target that does not hear this cleans up when its mover sees no source. */
async function abortAtTarget(context: MigrateContext, entry: MigrationEntry, reason: string): Promise<void> {
  try {
    const { migrationId, peer } = entry.info;
    const params = { migrationId, reason: reason.slice(0, 1000) };
    await context.peer(peer).call('migration.abort', params, { timeoutMs: ABORT_TIMEOUT_MS });
  } catch (error) {
    context.log.info(
      { migration: entry.id, err: asCloudapError(error).message },
      'target not told of the end',
    );
  }
}

/** The hand-over had begun when the mover was lost. Only the target knows whether it took the VM. */
export async function askAndSettle(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  cause: unknown,
): Promise<void> {
  let outcome: Outcome['outcome'] = 'pending';
  try {
    outcome = await outcomeAt(context, entry);
  } catch (error) {
    context.log.warn(
      { migration: entry.id, err: asCloudapError(error).message },
      'the target does not say who has the VM',
    );
  }
  if (outcome === 'completed') return release(context, entry, vm);
  const ownership = await readOwnership(vm.paths.ownershipFile);
  if (outcome === 'aborted' && ownership.state === 'offered') {
    await changeOwnership(vm.paths.ownershipFile, ownership, {
      owner: context.config.id,
      generation: ownership.generation,
      state: 'owned',
      peer: null,
    });
    await context.vms.setProblem(vm, undefined);
    return goOn(context, entry, vm, cause);
  }
  const why =
    outcome === 'running' ? 'it runs at the target' : `${entry.info.peer} does not say whether it took over`;
  await degrade(context, entry, vm, cause ?? failMigrate('MIGRATE_DEGRADED', why));
}

/**
 * The operator gives a target up that is lost after the switch: the VM goes on here as it was when it was stopped. With a
 * mover the migration ends by that; without one it is QEMU's own state and the ownership that are settled here.
 * @throws MIGRATE_ENDED, MOVER_TOO_LATE, MOVER_TARGET_ALIVE, and what the steps throw
 */
export async function takeBack(context: MigrateContext, entry: MigrationEntry): Promise<void> {
  if (entry.info.role !== 'source') throw migrationFail('MOVER_TOO_LATE', `ask at ${entry.info.peer}`);
  if (entry.active) {
    if (!entry.mover) throw migrationFail('MOVER_TOO_LATE', 'it has not switched yet: cancel it');
    await entry.mover.takeBack();
    await entry.ended;
    return;
  }
  if (!entry.kept) throw failMigrate('MIGRATE_ENDED', entry.id);
  const vm = context.vms.store.get(entry.info.vmId);
  const answer = await outcomeAt(context, entry).catch(() => undefined);
  if (answer === 'completed') {
    await release(context, entry, vm);
    throw failMigrate('MIGRATE_ENDED', entry.id);
  }
  if (answer !== undefined && answer !== 'aborted')
    throw migrationFail('MOVER_TARGET_ALIVE', entry.info.peer);
  const { ownershipFile } = vm.paths;
  await context.vms.runningQemu(vm).takeBack({
    ownershipPath: ownershipFile,
    siteId: context.config.id,
    generation: entry.info.generation,
  });
  await context.vms.setProblem(vm, undefined);
  context.log.warn({ migration: entry.id, vm: vm.definition.id }, 'VM taken back');
  await entry.end('failed', asApiError(migrationFail('MOVER_TAKEN_BACK')));
}

async function outcomeAt(context: MigrateContext, entry: MigrationEntry): Promise<Outcome['outcome']> {
  const answer = await context
    .peer(entry.info.peer)
    .call('migration.outcome', { migrationId: entry.id }, { timeoutMs: context.timeouts.callMs });
  return outcomeSchema.parse(answer).outcome;
}

async function degrade(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  cause: unknown,
): Promise<void> {
  const error = asApiError(
    failMigrate(
      'MIGRATE_DEGRADED',
      `${vm.definition.name} to ${entry.info.peer}: ${asApiError(cause).message}`,
      {
        fields: { cause: asApiError(cause).code, migrationId: entry.id },
      },
    ),
  );
  await context.vms.setProblem(vm, error);
  entry.keep(error);
}

/** Whether a migration of this VM may begin. @throws SITE_NOT_CONNECTED and others, by `context.peer` */
export function checkPeer(context: MigrateContext, peer: string): void {
  if (peer === context.config.id) throw failMigrate('MIGRATE_TO_SELF', peer);
  context.peer(peer);
  const reachable = context.dialAddress(peer) !== undefined || canListenFor(context, peer);
  if (!reachable)
    throw failSite('SITE_NOT_CONNECTED', `${peer}: no address under link.dial, and no link.listen here`);
}
