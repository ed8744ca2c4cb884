/**
 * What a migration target does to its disk once every byte of the overlay has arrived (DESIGN 3.2): read it from the
 * local file instead of from the mover, fold the guest's writes into it, and be as a VM that never moved. Each step
 * looks at the disk first, so that a mover that was restarted repeats it without harm.
 */
import { errorCode } from '../base/errors.ts';
import type { QmpEvent } from '../wire/qmp/messages.ts';
import { describeChain } from './block-chain.ts';
import { arrivedFileNode, arrivingCowNode, NODE } from './block-nodes.ts';
import { COMMIT_TIMEOUT_MS, PIVOT_TIMEOUT_MS } from './constants.ts';
import { fail } from './errors.ts';
import type { QemuMonitor } from './monitor.ts';
import { checkOverlay } from './overlay-header.ts';
import type { BlockJob } from './schemas.ts';

export interface StepOptions {
  readonly signal?: AbortSignal | undefined;
  readonly timeoutMs?: number | undefined;
}

/** Id of the commit's block job. */
export const COMMIT_JOB = 'cloudap-commit';

const JOB_ENDS = ['BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED'];

/**
 * `cow` reads from `localPath` from now on; the NBD server is no longer needed. `localPath` must be byte for byte
 * the source's overlay, complete. Waits for reads that are under way, so call it when the server answers at once.
 * Returns how long QEMU took for the exchange itself.
 * @throws QEMU_OVERLAY_INVALID, QEMU_CHAIN_UNEXPECTED, QMP_COMMAND_FAILED, QMP_TIMEOUT
 */
export async function pivotToLocal(
  qmp: QemuMonitor,
  { localPath, signal, timeoutMs = PIVOT_TIMEOUT_MS }: StepOptions & { localPath: string },
): Promise<{ reopenMs: number }> {
  const options = { signal, timeoutMs };
  const { stage, nodes, loose } = await describeChain(qmp, options);
  if (stage === 'none') throw fail('QEMU_CHAIN_UNEXPECTED', 'the machine has no disk');
  let reopenMs = 0;
  if (stage === 'arriving') {
    await checkOverlay(localPath, nodes.find((n) => n.name === NODE.cow)?.virtualBytes);
    const hasBase = nodes.some((n) => n.name === NODE.base);
    // From an attempt that broke off; its file may have been another.
    if (loose.includes(NODE.cowFile)) await qmp.blockdevDel(NODE.cowFile, options);
    await qmp.blockdevAdd(arrivedFileNode(localPath), options);
    const start = performance.now();
    try {
      await qmp.blockdevReopen([arrivingCowNode(NODE.cowFile, hasBase)], options);
    } catch (error) {
      if (errorCode(error) === 'QMP_COMMAND_FAILED') await qmp.blockdevDel(NODE.cowFile, { timeoutMs });
      throw error;
    }
    reopenMs = performance.now() - start;
  }
  const after = await describeChain(qmp, options);
  if (after.loose.includes(NODE.cowNbd)) await qmp.blockdevDel(NODE.cowNbd, options);
  return { reopenMs };
}

export interface CommitOptions extends StepOptions {
  readonly speedBytesPerS?: number | undefined;
}

/**
 * Folds `top` into the overlay while the guest runs; afterwards the chain is base <- cow again and `top`'s file is
 * no longer used. Given up (signal, deadline, full disk) the guest keeps its longer chain, and it can be tried again.
 * @throws QEMU_CHAIN_UNEXPECTED (not pivoted yet), QEMU_BLOCK_JOB_FAILED, QMP_EVENT_TIMEOUT
 */
export async function commitTop(qmp: QemuMonitor, options: CommitOptions = {}): Promise<void> {
  const { stage } = await describeChain(qmp, options);
  if (stage === 'arriving' || stage === 'none') {
    throw fail('QEMU_CHAIN_UNEXPECTED', `it is '${stage}', nothing can be committed`, { fields: { stage } });
  }
  if (stage === 'pivoted') await runCommit(qmp, options);
  const { loose } = await describeChain(qmp, options);
  for (const node of [NODE.top, NODE.topFile]) {
    if (loose.includes(node)) await qmp.blockdevDel(node, { signal: options.signal });
  }
}

async function runCommit(qmp: QemuMonitor, options: CommitOptions): Promise<void> {
  const { signal, timeoutMs = COMMIT_TIMEOUT_MS, speedBytesPerS } = options;
  const mark = qmp.mark();
  const ours = (event: QmpEvent): boolean => event.data.device === COMMIT_JOB;
  const deadline = performance.now() + timeoutMs;
  const wait = (names: readonly string[]): Promise<QmpEvent> =>
    qmp.waitEvent(names, ours, { signal, since: mark, timeoutMs: Math.max(deadline - performance.now(), 1) });

  let job = await findJob(qmp);
  if (!job) {
    await qmp.blockCommit(
      {
        jobId: COMMIT_JOB,
        topNode: NODE.top,
        baseNode: NODE.cow,
        ...(speedBytesPerS === undefined ? {} : { speedBytesPerS }),
      },
      { signal },
    );
  }
  try {
    // An interrupted caller may have left a job that is ready already, and its event is history.
    job = await findJob(qmp);
    if (!job?.ready) failUnlessGood(await wait(['BLOCK_JOB_READY', ...JOB_ENDS]), 'BLOCK_JOB_READY');
    await qmp.blockJobComplete(COMMIT_JOB, { signal });
    failUnlessGood(await wait(JOB_ENDS), 'BLOCK_JOB_COMPLETED');
  } catch (error) {
    await cancelJob(qmp);
    throw error;
  }
}

async function findJob(qmp: QemuMonitor): Promise<BlockJob | undefined> {
  return (await qmp.queryBlockJobs()).find((job) => job.device === COMMIT_JOB);
}

function failUnlessGood(event: QmpEvent, good: string): void {
  const { error } = event.data;
  if (event.name === good && error === undefined) return;
  throw fail('QEMU_BLOCK_JOB_FAILED', typeof error === 'string' ? error : event.name, {
    fields: { event: event.name, data: event.data },
  });
}

/** Leaves no job behind. A job that ended by itself meanwhile is no error. */
async function cancelJob(qmp: QemuMonitor): Promise<void> {
  const mark = qmp.mark();
  try {
    if (!(await findJob(qmp))) return;
    await qmp.blockJobCancel(COMMIT_JOB, true);
    await qmp.waitEvent(JOB_ENDS, (e) => e.data.device === COMMIT_JOB, { since: mark });
  } catch {
    // What made the commit fail is what the caller learns.
  }
}

/** An export of QEMU's that tells, as `qemu:allocation-depth`, which clusters the guest has written to `top`. */
export interface AllocationExport extends AsyncDisposable {
  readonly socketPath: string;
  readonly exportName: string;
  /** Ends the export; must come before `commitTop`. */
  remove(): Promise<void>;
}

/**
 * Serves `top` read-only over NBD with its allocation depth (depth 1: in `top`). Only after the guest has resumed:
 * an export activates the image. QEMU has one NBD server; one that an interrupted mover left is replaced.
 * @throws QEMU_SOCKET_PATH_TOO_LONG, QMP_COMMAND_FAILED
 */
export async function exportAllocation(
  qmp: QemuMonitor,
  { socketPath, signal }: { socketPath: string; signal?: AbortSignal | undefined },
): Promise<AllocationExport> {
  const exportName = NODE.top;
  const options = { signal };
  try {
    await qmp.nbdServerStart(socketPath, undefined, options);
  } catch (error) {
    if (errorCode(error) !== 'QMP_COMMAND_FAILED') throw error;
    await stopServer(qmp);
    await qmp.nbdServerStart(socketPath, undefined, options);
  }
  try {
    const spec = { id: 'cloudap-allocation', nodeName: NODE.top, name: exportName, allocationDepth: true };
    await qmp.blockExportAdd(spec, options);
  } catch (error) {
    await stopServer(qmp);
    throw error;
  }
  const remove = (): Promise<void> => stopServer(qmp);
  return { socketPath, exportName, remove, [Symbol.asyncDispose]: remove };
}

async function stopServer(qmp: QemuMonitor): Promise<void> {
  try {
    await qmp.nbdServerStop();
  } catch (error) {
    // No server, or no QEMU any more: that is what was wanted.
    const gone = ['QMP_COMMAND_FAILED', 'QMP_CLOSED', 'QMP_DISCONNECTED', 'QEMU_EXITED'];
    if (!gone.includes(errorCode(error))) throw error;
  }
}
