import { sleep } from '../../base/async.ts';
import { WorkloadClient } from '../../content/guests/workload-client.ts';
import type { Image } from '../../content/images/store.ts';
import { RfbSession } from '../../qemu/rfb/session.ts';
import type { GuestSockets } from './guest.ts';

const KEY_DELAY_MS = 120;
const TEXT = 'The quick brown fox jumps over the lazy dog, and the word processor keeps up with it. ';

/** What a user does for a while: types into the application, or (a guest without screen) has a light load run. */
export async function useFor(
  image: Image,
  sockets: GuestSockets,
  durationMs: number,
  signal: AbortSignal,
): Promise<void> {
  const deadlineMs = performance.now() + durationMs;
  if (sockets.vncSocket === undefined) {
    using workload = await WorkloadClient.connect(sockets.serial1Socket);
    await workload.ready({ signal });
    await workload.command('start disk=5 mem=20');
    await sleep(durationMs, signal);
    await workload.command('stop');
    return;
  }
  using rfb = await RfbSession.connect(sockets.vncSocket, { signal });
  const { focus } = image.manifest.guest ?? {};
  if (focus) await rfb.click(focus.x, focus.y, signal);
  while (performance.now() < deadlineMs) await rfb.type(TEXT, { delayMs: KEY_DELAY_MS, signal });
}
