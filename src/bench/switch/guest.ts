import { sleep } from '../../base/async.ts';
import { WorkloadClient } from '../../content/guests/workload-client.ts';
import type { Image } from '../../content/images/store.ts';
import { RfbSession } from '../../qemu/rfb/session.ts';
import { failBench } from '../kit/errors.ts';

const READY_TIMEOUT_MS = 240_000;
const PREFILL_DISK_RATE = 400;
const PREFILL_MS = 5_000;
/** The idle case is left alone this long: a guest that has just come up still tidies. */
const SETTLE_MS = 3_000;

/** Operations and pages a second of the guest's self-checking workload; undefined: the guest idles. */
export type Load =
  | {
      diskPerS: number | 'max';
      memoryPerS: number | 'max';
      /** Before the migration begins, so that the overlay holds something to move. */
      prefillPerS?: number | 'max';
      prefillMs?: number;
    }
  | undefined;

export interface GuestSockets {
  vncSocket: string | undefined;
  serial1Socket: string;
}

/** Waits until guest and application are up, then starts the load. */
export async function makeReady(
  image: Image,
  sockets: GuestSockets,
  load: Load,
  signal: AbortSignal,
): Promise<void> {
  const { screen, ready } = image.manifest.guest ?? {};
  if (sockets.vncSocket !== undefined && screen && ready) {
    using rfb = await RfbSession.connect(sockets.vncSocket, { signal });
    await rfb.waitReady({ screen, ...ready, timeoutMs: READY_TIMEOUT_MS, signal });
  }
  using workload = await WorkloadClient.connect(sockets.serial1Socket);
  await workload.ready({ signal, timeoutMs: READY_TIMEOUT_MS });
  if (!load) {
    await sleep(SETTLE_MS, signal);
    return;
  }
  const { prefillPerS = PREFILL_DISK_RATE, prefillMs = PREFILL_MS } = load;
  await workload.command(`start disk=${prefillPerS} mem=${load.memoryPerS}`);
  await sleep(prefillMs, signal);
  await workload.command(`rate disk=${load.diskPerS} mem=${load.memoryPerS}`);
}

/** Has the guest say whether all that it has checked so far was right. @throws BENCH_RUN */
export async function checkArrived(sockets: GuestSockets, load: Load): Promise<void> {
  using workload = await WorkloadClient.connect(sockets.serial1Socket);
  const answer = await workload.command(load ? 'stat' : 'ping');
  const bad = ['disk_bad', 'disk_errors', 'mem_bad'].some((key) => (answer.fields.get(key) ?? 0) > 0);
  if (!answer.ok || bad) throw failBench('BENCH_RUN', `the guest at the target: ${answer.line}`);
}
