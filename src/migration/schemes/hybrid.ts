import { sleep } from '../../base/async.ts';
import type { QemuMonitor } from '../../qemu/monitor.ts';
import type { QmpMark } from '../../qemu/qmp-events.ts';
import { ringPages } from '../memory/ring-pages.ts';
import { migrationFail } from '../messages.ts';
import type { MemorySource } from '../memory/source.ts';

/**
 * The paper's memory scheme (section IV.A, Figure 3) on stock QEMU: one round of pre-copy while the VM runs, then
 * the freeze, then post-copy of what became dirty meanwhile.
 */
export interface SwitchTimes {
  /** Round one had gone through; the pipe was emptied from here on. */
  roundOneEndMs: number;
  drainedMs: number;
}

/** As fast as the agents take it: the link's credits are the limit, not QEMU. */
const UNLIMITED_BYTES_PER_SECOND = 4 * 1024 ** 3;
/**
 * Keeps QEMU from writing while the pipe is emptied. QEMU counts in tenths of a second and takes a limit that rounds
 * to 0 as none, hence not 1.
 */
const THROTTLED_BYTES_PER_SECOND = 4096;
/**
 * QEMU completes as pre-copy when what is left takes less than this by its own measure, i.e. a few pages. 0 would
 * make it end round one with a stop and a copy of everything that is dirty (migration_iteration_run).
 */
const DOWNTIME_LIMIT_MS = 1;

/** Sets the capabilities that both ends must agree on. */
export async function setCapabilities(qmp: QemuMonitor, preempt: boolean): Promise<void> {
  await qmp.migrateSetCapabilities({
    events: true,
    'return-path': true,
    'postcopy-ram': true,
    'postcopy-preempt': preempt,
  });
}

/**
 * Whether this QEMU may use its second channel. Each outgoing attempt that ended before its post-copy leaves a count in
 * QEMU 7.2's semaphore for the channel (postcopy-ram.c, postcopy_preempt_wait_channel). With it a later recovery goes
 * on without the channel, and QEMU ends in an assertion: so only a QEMU's first attempt has the channel.
 */
export async function mayPreempt(qmp: QemuMonitor): Promise<boolean> {
  const { status = 'none', ram } = await qmp.queryMigrate();
  // an incoming migration leaves `completed` too, but no figures of the memory sent
  return status === 'none' || (status === 'completed' && ram === undefined);
}

export async function startRoundOne(qmp: QemuMonitor, streamSocket: string): Promise<void> {
  await qmp.migrateSetParameters({
    'max-bandwidth': UNLIMITED_BYTES_PER_SECOND,
    'max-postcopy-bandwidth': 0,
    'downtime-limit': DOWNTIME_LIMIT_MS,
  });
  await qmp.migrate(`unix:${streamSocket}`);
}

/**
 * Waits for the end of round one (or until it is left), empties the pipe and starts post-copy; returns when the VM has been stopped.
 * `commit` runs at the last moment at which the source can still go on by itself.
 */
export async function switchOver(
  qmp: QemuMonitor,
  memory: MemorySource,
  options: {
    signal: AbortSignal;
    since: QmpMark;
    memoryBytes: number;
    /** Resolves when round one is to be left unfinished; what has not gone by then is post-copied. */
    cutShort: (signal: AbortSignal) => Promise<void>;
    /** The target can take the VM. */
    ready: Promise<void>;
    /** What need not wait for the empty pipe; failures are the business of `commit`. */
    prepare: () => Promise<void>;
    commit: () => Promise<void>;
  },
): Promise<SwitchTimes> {
  const { signal, since } = options;
  const wait = { since, signal, timeoutMs: Number.POSITIVE_INFINITY };
  let stopped = false;
  let urgentPages: readonly number[] = [];
  const stop = qmp.waitEvent('STOP', undefined, wait).then(() => {
    stopped = true;
  });
  const failed = qmp
    .waitEvent('MIGRATION', (event) => event.data['status'] === 'failed', wait)
    .then(() => Promise.reject(migrationFail('MOVER_QEMU_SOURCE', 'QEMU gave the migration up')));
  const roundOne = qmp.waitEvent('MIGRATION_PASS', (event) => Number(event.data['pass']) >= 2, wait);
  for (const promise of [stop, failed, roundOne, memory.finished]) promise.catch(() => {});
  const broken = [failed, memory.finished.then(() => failed)];

  const over = new AbortController();
  const cutShort = options.cutShort(AbortSignal.any([signal, over.signal]));
  cutShort.catch(() => {});
  await Promise.race([roundOne, stop, ...broken, cutShort]).finally(() => over.abort());
  const roundOneEndMs = Date.now();
  if (!stopped) await Promise.race([options.ready, stop, ...broken]);
  if (!stopped) {
    await qmp.migrateSetParameters({ 'max-bandwidth': THROTTLED_BYTES_PER_SECOND });
    const rings = ringPages(qmp, options.memoryBytes);
    const prepared = options.prepare();
    for (const promise of [rings, prepared]) promise.catch(() => {});
    await Promise.race([memory.drained(signal), stop, ...broken]);
    await Promise.race([prepared, stop, ...broken]);
    if (!stopped) urgentPages = await rings;
  }
  const drainedMs = Date.now();
  signal.throwIfAborted();
  await options.commit();
  if (!stopped) {
    memory.beginSwitch();
    try {
      await qmp.migrateStartPostcopy();
      // without this QEMU would first wait for the end of its tenth of a second
      memory.requestPages(urgentPages);
    } catch (error) {
      // it may have completed by itself at this very moment
      await sleep(50);
      if (!stopped) throw error;
    }
    await Promise.race([stop, ...broken]);
  }
  return { roundOneEndMs, drainedMs };
}
