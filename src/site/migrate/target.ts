import { mkdir, rm } from 'node:fs/promises';
import { freemem } from 'node:os';
import { asCloudapError } from '../../base/errors.ts';
import type { MoverStatus } from '../../migration/mover/config.ts';
import type { MoverHandle } from '../../migration/mover/handle.ts';
import { readOwnership, type Ownership } from '../../migration/ownership.ts';
import { DISK_RESERVE_BYTES, EXPORT_HEADROOM_BYTES, MIGRATIONS_MAX } from '../constants.ts';
import { failMigrate, failPrepare } from '../errors.ts';
import type { BaseImage } from '../ports.ts';
import type { StoredVm } from '../vm/store.ts';
import type { TargetFacts } from './checks.ts';
import { contentLogFor, contentOfVm } from './content.ts';
import { canListenFor, commonMoverConfig, type MigrateContext } from './context.ts';
import { asApiError, reportedError, type MigrationEntry } from './entry.ts';
import type { Prepare } from './messages.ts';

const MIB = 1024 * 1024;

/** Gathers what the decision needs; touches nothing. */
export async function targetFacts(
  context: MigrateContext,
  request: Prepare,
  migrations: number,
): Promise<TargetFacts> {
  const { config, vms, backends } = context;
  const [image, freeBytes, residue, diskUsedBytes, machineProblem] = await Promise.all([
    backends.images.find(request.vm.image).catch((error: unknown) => {
      throw failPrepare('PREPARE_IMAGE_DAMAGED', asCloudapError(error).message, { cause: error });
    }),
    backends.disks.freeBytes(config.dataDir),
    context.residue.list(),
    vms.diskUsedBytes(),
    backends.qemu.checkMachine(request.vm).then(
      () => undefined,
      (error: unknown) => asCloudapError(error).message,
    ),
  ]);
  const { memoryMiB, diskMiB, vms: vmsMax } = config.capacity;
  return {
    machineProblem,
    site: config.id,
    qemu: vms.facts,
    image,
    capacity: { memoryMiB, diskBytes: diskMiB === undefined ? undefined : diskMiB * MIB, vms: vmsMax },
    used: { memoryMiB: vms.memoryUsedMiB(), diskBytes: diskUsedBytes, vms: vms.store.count },
    availableMemoryMiB: Math.floor(freemem() / MIB),
    // residue gives way to VMs
    freeDiskBytes: residue.reduce((sum, { bytes }) => sum + bytes, freeBytes),
    vmExists: vms.store.has(request.vm.id),
    nameTaken: vms.store.nameTaken(request.vm.name),
    migrations,
    migrationsMax: MIGRATIONS_MAX,
    routable: request.sourceDials
      ? canListenFor(context, request.source)
      : context.dialAddress(request.source) !== undefined,
  };
}

/**
 * Makes everything that the movers need: directory, disks, mover, and a QEMU that waits. Whatever fails leaves nothing.
 * @throws PREPARE_FAILED, MIGRATE_CANCELLED
 */
export async function prepareTarget(
  context: MigrateContext,
  entry: MigrationEntry,
  request: Prepare,
  image: BaseImage,
): Promise<StoredVm> {
  const { vms } = context;
  const { signal } = entry.cancelled;
  let vm: StoredVm | undefined;
  try {
    using _memory = vms.reserveMemory(request.vm);
    // both reserve before they wait: memory above, name and place here
    vm = await createVm(context, request);
    // beside the rest: the overlay comes later
    void context.residue.giveWay(DISK_RESERVE_BYTES + request.overlayBytes).catch(() => {});
    await entry.save();
    signal.throwIfAborted();
    await mkdir(entry.paths.socketDir, { recursive: true, mode: 0o700 });
    const mover = await startMover(context, entry, request);
    signal.throwIfAborted();
    const qemu = await context.backends.qemu.start({
      definition: request.vm,
      paths: vm.paths,
      image,
      incoming: { nbdSocket: entry.paths.nbdSocket },
    });
    await vms.attach(vm, qemu);
    signal.throwIfAborted();
    // the mover may have ended meanwhile; `watchTarget` then cleans up like this
    if (mover.status && ['failed', 'cancelled'].includes(mover.status.state)) {
      throw failPrepare('PREPARE_FAILED', mover.status.error?.message ?? 'the mover ended');
    }
    // The last step: from here on the VM may become ours, and whatever happens is settled by its ownership.
    await mover.qemuStarted();
    return vm;
  } catch (error) {
    const coded = signal.aborted ? signal.reason : error;
    await cleanUp(context, entry, vm, coded);
    if (signal.aborted || asCloudapError(error).code.startsWith('PREPARE_')) throw coded;
    throw failPrepare('PREPARE_FAILED', asCloudapError(error).message, { cause: error });
  }
}

function createVm(context: MigrateContext, request: Prepare): Promise<StoredVm> {
  const { disks } = context.backends;
  const { vm } = request;
  const ownership: Ownership = {
    version: 1,
    vmId: vm.id,
    owner: request.source,
    generation: request.generation,
    state: 'incoming',
    peer: request.source,
  };
  const virtualBytes = vm.machine.diskBytes ?? 0;
  return context.vms.store.create(vm, ownership, async (paths) => {
    await Promise.all([paths.overlay, paths.top].map((path) => disks.createQcow2(path, virtualBytes)));
  });
}

async function startMover(
  context: MigrateContext,
  entry: MigrationEntry,
  request: Prepare,
): Promise<MoverHandle> {
  const vm = context.paths.vm(request.vm.id);
  const mover = await context.backends.movers.start({
    role: 'target',
    ...commonMoverConfig(context, entry.id, request.vm.id, request.source, !request.sourceDials),
    linkLossTimeoutMs: request.linkLossTimeoutMs,
    content: await contentOfVm(context, request.vm, entry.info),
    contentLog: await contentLogFor(context, entry),
    nbdSocket: entry.paths.nbdSocket,
    allocationSocket: entry.paths.allocationSocket,
    topPath: vm.top,
    exportSizeBytes: exportSizeBytes(request),
    generation: request.generation,
  });
  await entry.attach(mover);
  return mover;
}

/** More than the overlay can have become when its VM stops: every cluster of the disk allocated anew, tables included. */
export function exportSizeBytes(request: Pick<Prepare, 'overlayBytes' | 'vm'>): number {
  const disk = request.vm.machine.diskBytes ?? 0;
  const most = request.overlayBytes + disk + Math.ceil(disk / 64) + EXPORT_HEADROOM_BYTES;
  return Math.ceil(most / MIB) * MIB;
}

/** Follows a prepared migration to its end. Never rejects: the entry has the result. */
export async function watchTarget(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  mover: MoverHandle,
): Promise<void> {
  let abandoned = false;
  const here = (status: MoverStatus | undefined): boolean =>
    status !== undefined && (status.link === 'open' || status.state !== 'connecting');
  const timer = setTimeout(() => {
    if (here(entry.status) || context.closing.aborted) return;
    abandoned = true;
    void mover.kill();
  }, context.timeouts.sourceMoverMs);
  const stop = mover.onStatus((status) => {
    if (here(status)) clearTimeout(timer);
  });
  try {
    const last = await mover.exited;
    if (context.closing.aborted) return;
    await settleTarget(context, entry, vm, last, abandoned ? failPrepare('PREPARE_ABANDONED') : undefined);
  } catch (error) {
    context.log.error({ migration: entry.id, err: error }, 'migration could not be settled');
    entry.keep(asApiError(error));
  } finally {
    clearTimeout(timer);
    stop();
  }
}

/** Ends a target's migration by what is true now: whose the VM is, and whether it still needs the source. */
export async function settleTarget(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm,
  last: MoverStatus | undefined,
  thrown?: unknown,
): Promise<void> {
  const { vms, config } = context;
  const ownership = await readOwnership(vm.paths.ownershipFile);
  const cause = thrown ?? reportedError(last) ?? failMigrate('MIGRATE_MOVER_LOST', entry.id);
  if (ownership.owner !== config.id || ownership.state === 'incoming') {
    return cleanUp(
      context,
      entry,
      vm,
      entry.cancelled.signal.aborted ? entry.cancelled.signal.reason : cause,
    );
  }
  const qemu = vms.qemu(vm);
  const independent =
    last?.state === 'completed' || (qemu && (await qemu.isIndependent().catch(() => false)));
  if (!independent) {
    const name = vm.definition.name;
    const error = asApiError(
      failMigrate('MIGRATE_DEGRADED', `${name} from ${entry.info.peer}: ${asApiError(cause).message}`, {
        fields: { cause: asApiError(cause).code, migrationId: entry.id },
      }),
    );
    await vms.setProblem(vm, error);
    return entry.keep(error);
  }
  await tidy(context, vm);
  context.log.info({ migration: entry.id, vm: vm.definition.id, from: entry.info.peer }, 'VM arrived');
  await entry.end('completed', null);
}

/** The VM is whole: its directory becomes like that of any other VM of this site. */
async function tidy(context: MigrateContext, vm: StoredVm): Promise<void> {
  await rm(vm.paths.top, { force: true });
  await context.vms.setProblem(vm, undefined);
}

/** Before the switch: nothing of the VM stays here. */
export async function cleanUp(
  context: MigrateContext,
  entry: MigrationEntry,
  vm: StoredVm | undefined,
  cause: unknown,
): Promise<void> {
  await entry.mover?.kill().catch((error: unknown) => context.log.error({ err: error }, 'mover'));
  if (vm) {
    const qemu = context.vms.qemu(vm);
    if (qemu) {
      await qemu.kill();
      await context.vms.settleEnd(vm, qemu);
    }
    await context.vms.store.remove(vm);
  }
  const error = asApiError(cause);
  context.log.warn({ migration: entry.id, code: error.code }, `not taken over: ${error.message}`);
  await entry.end(entry.cancelled.signal.aborted ? 'cancelled' : 'failed', error);
}
