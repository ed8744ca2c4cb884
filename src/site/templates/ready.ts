import { readFile } from 'node:fs/promises';
import { abortable, sleep } from '../../base/async.ts';
import { errorCode } from '../../base/errors.ts';
import { WorkloadClient } from '../../content/guests/workload-client.ts';
import type { GuestInfo } from '../../content/images/manifest.ts';
import { logTail } from '../../qemu/log-tail.ts';
import { RfbSession } from '../../qemu/rfb/session.ts';
import { TEMPLATE_READY_POLL_MS, TEMPLATE_READY_TIMEOUT_MS } from '../constants.ts';
import { failTemplate } from '../errors.ts';
import type { VmPaths } from '../paths.ts';
import type { QemuHandle } from '../ports.ts';

type Signs = Pick<GuestInfo, 'bootMarks' | 'workload' | 'screen' | 'ready'>;

/** @throws TEMPLATE_NOT_READY where neither the image nor the caller says how one sees that the guest is up */
export function checkSigns(guest: Signs | undefined, afterS: number | undefined): void {
  if (afterS !== undefined || guest?.bootMarks?.length || guest?.workload || (guest?.screen && guest.ready))
    return;
  throw failTemplate('TEMPLATE_NOT_READY', 'its image has no description of that');
}

/**
 * Waits until a guest is up: after a time, if one was given, else by all the signs that its image describes.
 * @throws TEMPLATE_GUEST_ENDED, TEMPLATE_NOT_READY
 */
export async function waitUntilReady(
  qemu: QemuHandle,
  paths: VmPaths,
  guest: Signs | undefined,
  afterS: number | undefined,
  signal: AbortSignal,
): Promise<void> {
  // one plain signal: a composite one costs more with each of the many waits below (Node 24, refreshCompositeSignal)
  const over = new AbortController();
  const stop = over.signal;
  const forward = (): void => over.abort(signal.reason);
  signal.addEventListener('abort', forward, { once: true });
  const ended = qemu.exited.then(async () => {
    throw failTemplate('TEMPLATE_GUEST_ENDED', (await logTail(paths.serialLog)).slice(-500));
  });
  const ready = afterS === undefined ? seen(paths, guest ?? {}, stop) : sleep(afterS * 1000, stop);
  ended.catch(() => {});
  ready.catch(() => {});
  try {
    await abortable(Promise.race([ready, ended]), signal);
  } finally {
    signal.removeEventListener('abort', forward);
    over.abort();
  }
}

async function seen(
  paths: VmPaths,
  { bootMarks, workload, screen, ready }: Signs,
  signal: AbortSignal,
): Promise<void> {
  const deadlineMs = performance.now() + TEMPLATE_READY_TIMEOUT_MS;
  const leftMs = (): number => Math.max(1, deadlineMs - performance.now());
  try {
    const mark = bootMarks?.at(-1);
    if (mark !== undefined) await printed(paths.serialLog, mark, leftMs(), signal);
    if (screen && ready) {
      using session = await RfbSession.connect(paths.vncSocket, { signal });
      await session.waitReady({ screen, ...ready, timeoutMs: leftMs(), signal });
    }
    if (workload) {
      const socket = workload.serialPort === 0 ? paths.serialSocket : paths.serial1Socket;
      using client = await WorkloadClient.connect(socket);
      await client.ready({ timeoutMs: leftMs(), signal });
    }
  } catch (error) {
    signal.throwIfAborted();
    if (errorCode(error).startsWith('TEMPLATE_')) throw error;
    throw failTemplate('TEMPLATE_NOT_READY', (error as Error).message, { cause: error });
  }
}

async function printed(log: string, mark: string, timeoutMs: number, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  for (;;) {
    const text = await readFile(log, 'latin1').catch(() => '');
    if (text.includes(mark)) return;
    if (performance.now() > deadlineMs) throw failTemplate('TEMPLATE_NOT_READY', `"${mark}" does not appear`);
    await sleep(TEMPLATE_READY_POLL_MS, signal);
  }
}
