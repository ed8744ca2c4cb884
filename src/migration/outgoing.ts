import { sleep } from '../base/async.ts';
import type { QemuMonitor } from '../qemu/monitor.ts';
import { migrationFail } from './messages.ts';
import { finishPaused } from './memory/finish-paused.ts';
import { changeOwnership, type Ownership, readOwnership } from './ownership.ts';

const END_TIMEOUT_MS = 120_000;
const POLL_MS = 20;
/** A post-copy that has been asked for begins within this time, or not at all. */
const GRACE_MS = 1_000;

/** Statuses of `query-migrate` in which nothing is under way. */
const ENDED = ['none', 'completed', 'failed', 'cancelled'];

export interface OutgoingOptions {
  /** A Unix socket path of ours that QEMU may be told to connect to. */
  streamSocket: string;
  timeoutMs?: number;
  /** Post-copy has been asked for, and what QEMU writes is read and discarded: it ends by itself. */
  discarding?: boolean;
}

/**
 * Ends whatever outgoing migration a QEMU has under way; afterwards the VM runs, or stands still such that `cont` lets
 * it go on. Never cancels a post-copy: QEMU 7.2 comes to postcopy-paused by that, or to an assertion. While a mover
 * holds the connection a post-copy ends by itself (MemorySource.discardRest), without one see finishPaused.
 * @throws MOVER_TIMEOUT, MOVER_QEMU_SOURCE, QMP_*
 */
export async function endOutgoing(qmp: QemuMonitor, options: OutgoingOptions): Promise<void> {
  const { streamSocket, timeoutMs = END_TIMEOUT_MS, discarding = false } = options;
  const startMs = performance.now();
  const deadline = startMs + timeoutMs;
  let cancelled = false;
  for (;;) {
    const status = (await qmp.queryMigrate()).status ?? 'none';
    if (ENDED.includes(status)) break;
    if (status === 'postcopy-paused') {
      await finishPaused(qmp, { streamSocket, timeoutMs });
    } else if (!cancelled && !status.startsWith('postcopy') && status !== 'cancelling') {
      if (!discarding || performance.now() - startMs > GRACE_MS) {
        cancelled = true;
        await qmp.migrateCancel();
      }
    }
    await pause(deadline, `the migration of QEMU stays ${status}`);
  }
  // the run state follows a moment later, and `cont` is refused until then
  while ((await qmp.queryStatus()).status === 'finish-migrate') {
    await pause(deadline, 'QEMU stays in finish-migrate');
  }
}

async function pause(deadline: number, what: string): Promise<void> {
  if (performance.now() > deadline) throw migrationFail('MOVER_TIMEOUT', what);
  await sleep(POLL_MS);
}

export interface StayOptions extends OutgoingOptions {
  ownershipPath: string;
  siteId: string;
}

/**
 * The hand-over did not happen: the VM goes on here. Only for one who knows that the target has not taken over, and
 * cannot any more. @throws OWNERSHIP_CONFLICT and what `endOutgoing` throws
 */
export async function stayHere(qmp: QemuMonitor, options: StayOptions): Promise<void> {
  await endOutgoing(qmp, options);
  await withdrawOffer(options);
  await contIfStopped(qmp);
}

/** The ownership's part of `stayHere`, for where QEMU has gone. */
export async function withdrawOffer(options: Omit<StayOptions, 'streamSocket'>): Promise<void> {
  const { ownershipPath, siteId } = options;
  const found = await readOwnership(ownershipPath);
  if (found.owner !== siteId || found.state !== 'offered') return;
  const { generation } = found;
  await changeOwnership(ownershipPath, found, { owner: siteId, generation, state: 'owned', peer: null });
}

/**
 * The operator's way back when the target is lost after the switch: the VM goes on here as it was when it was stopped.
 * What it did at the target since is gone, and the target must not run it any more: the generation grows by two, so
 * that the target's claim, should it come back, is the older one.
 * @throws OWNERSHIP_CONFLICT where this site has not handed the VM over, and what `endOutgoing` throws
 */
export async function takeBack(
  qmp: QemuMonitor,
  options: StayOptions & { generation: number },
): Promise<Ownership> {
  const { ownershipPath, siteId, generation } = options;
  await endOutgoing(qmp, options);
  const found = await readOwnership(ownershipPath);
  const handedOver =
    found.owner === siteId
      ? found.state === 'offered' && found.generation === generation
      : found.generation === generation + 1;
  const expected = handedOver ? found : { owner: siteId, generation, state: 'offered' as const };
  const taken = await changeOwnership(ownershipPath, expected, {
    owner: siteId,
    generation: generation + 2,
    state: 'owned',
    peer: null,
  });
  await contIfStopped(qmp);
  return taken;
}

async function contIfStopped(qmp: QemuMonitor): Promise<void> {
  if (!(await qmp.queryStatus()).running) await qmp.cont();
}
