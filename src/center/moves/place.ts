import { sleep } from '../../base/async.ts';
import { errorCode } from '../../base/errors.ts';
import { placedSchema, type MoveRecord, type Placed, type VmRecord } from '../../control/messages.ts';
import type { ControlPlane } from '../../control/plane.ts';
import { request } from '../../control/requests.ts';
import { siteSubject } from '../../control/subjects.ts';
import { PLACE_ATTEMPTS, PLACE_RETRY_MS } from '../constants.ts';

/**
 * Has the target's site choose one of its hosts and hold the room there.
 * @throws PLACE_NO_ROOM, PLACE_CONTENDED, CONTROL_*; the signal's reason
 */
export async function placeMove(
  plane: ControlPlane,
  record: MoveRecord,
  vm: VmRecord,
  signal: AbortSignal,
): Promise<Placed> {
  const place = {
    id: record.move,
    vm: vm.vm,
    cpus: vm.cpus,
    memoryMiB: vm.memoryMiB,
    diskMiB: vm.diskMiB,
    accelerator: vm.accelerator,
    image: vm.image,
    not: [vm.host],
    ...(record.to.host === null ? {} : { only: record.to.host }),
  };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await request(plane.connection, siteSubject(record.to.site, 'place'), place, placedSchema);
    } catch (error) {
      // its agent may be starting
      if (errorCode(error) !== 'CONTROL_NO_ANSWER' || attempt === PLACE_ATTEMPTS) throw error;
      await sleep(PLACE_RETRY_MS, signal);
    }
  }
}
