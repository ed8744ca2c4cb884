/**
 * A copy of a running VM in another QEMU of this machine, which keeps it stopped: a migration whose source goes on. The VM
 * runs while its memory is copied, and stands still only for the last of it and for what the caller does meanwhile.
 */
import { errorCode } from '../base/errors.ts';
import { DEVICE_STATE_TIMEOUT_MS } from './constants.ts';
import { fail } from './errors.ts';
import type { QemuMonitor } from './monitor.ts';
import { checkSocketPath } from './socket-path.ts';

export interface CopyOptions {
  /** For the stream; it must not exist, its directory must be of mode 0700. */
  readonly socketPath: string;
  /** The copy is there, the VM stands still and its disk is flushed. */
  readonly whileStopped: () => Promise<void>;
  readonly signal?: AbortSignal | undefined;
}

const CAPABILITIES = {
  events: true,
  'return-path': false,
  'postcopy-ram': false,
  'postcopy-preempt': false,
  'x-ignore-shared': false,
};
const UNLIMITED_BYTES_PER_SECOND = 4 * 1024 ** 3;
/** QEMU stops the VM when it takes what is left to be copied in so long. */
const LAST_PART_MS = 100;
/** A VM that writes faster than it can be copied is stopped after this. */
const COPY_RUNNING_MS = 5_000;
const ENDS = ['completed', 'failed', 'cancelled'];

/**
 * `to` was started with `incoming` and `paused`, of the same machine. Whatever happens, `from` runs afterwards if it ran before.
 * @returns how long it stood still, ms
 * @throws QEMU_STATE_NOT_SAVED, what QMP and `whileStopped` throw
 */
export async function copyState(from: QemuMonitor, to: QemuMonitor, options: CopyOptions): Promise<number> {
  const { socketPath, whileStopped, signal } = options;
  checkSocketPath(socketPath);
  const { running } = await from.queryStatus({ signal });
  const since = from.mark();
  try {
    await to.migrateSetCapabilities(CAPABILITIES, { signal });
    await to.migrateIncoming(`unix:${socketPath}`, { signal });
    await from.migrateSetCapabilities(CAPABILITIES, { signal });
    const limits = { 'max-bandwidth': UNLIMITED_BYTES_PER_SECOND, 'downtime-limit': LAST_PART_MS };
    await from.migrateSetParameters(limits, { signal });
    const [here, there] = [from, to].map((qmp) =>
      qmp.waitEvent('MIGRATION', ({ data }) => ENDS.includes(String(data.status)), {
        signal,
        timeoutMs: DEVICE_STATE_TIMEOUT_MS,
      }),
    );
    for (const end of [here, there]) end?.catch(() => {});
    await from.migrate(`unix:${socketPath}`, { signal });
    const timer = setTimeout(() => void from.stop().catch(() => {}), COPY_RUNNING_MS);
    const ended = await Promise.all([here, there]).finally(() => clearTimeout(timer));
    const wrong = ended.find((event) => event?.data['status'] !== 'completed');
    if (wrong) throw fail('QEMU_STATE_NOT_SAVED', `the copy has ${String(wrong.data['status'])}`);
    await whileStopped();
  } catch (error) {
    signal?.throwIfAborted();
    if (errorCode(error) !== 'INTERNAL') throw error;
    throw fail('QEMU_STATE_NOT_SAVED', (error as Error).message, { cause: error });
  } finally {
    if (running) await goOn(from);
  }
  const at = (name: string): number =>
    from.eventsSince(since).find((event) => event.name === name)?.timestampMs ?? Number.NaN;
  return running ? at('RESUME') - at('STOP') : 0;
}

/** Out of a copy that has ended, or has not. */
async function goOn(qmp: QemuMonitor): Promise<void> {
  const { status } = await qmp.queryMigrate();
  if (status !== undefined && !ENDS.includes(status) && status !== 'none') {
    const since = qmp.mark();
    await qmp.migrateCancel();
    await qmp
      .waitEvent('MIGRATION', ({ data }) => ENDS.includes(String(data.status)), {
        since,
        timeoutMs: DEVICE_STATE_TIMEOUT_MS,
      })
      .catch(() => {});
  }
  if (!(await qmp.queryStatus()).running) await qmp.cont();
}
