import type { Logger } from 'pino';
import type { Fleet } from '../control/fleet.ts';
import type { MoveRecord } from '../control/messages.ts';
import { mobilityNotification, Notifier, type MobilityStatus } from '../mobility/mec021.ts';
import { parseAddress } from '../site/config-text.ts';
import type { Moves } from './moves/moves.ts';

const STATUS: Readonly<Partial<Record<MoveRecord['state'], MobilityStatus>>> = {
  migrating: 'INTER_HOST_MOBILITY_TRIGGERED',
  completed: 'INTER_HOST_MOBILITY_COMPLETED',
  failed: 'INTER_HOST_MOBILITY_FAILED',
};

/** Tells a MEC platform of each move of a VM whose user's device has an IP address that is known: what MEC 021 knows a user by. */
export function notifyMoves(options: {
  urls: readonly string[];
  fleet: Fleet;
  moves: Moves;
  log: Logger;
}): AsyncDisposable {
  const { urls, fleet, moves, log } = options;
  const notifiers = urls.map((url) => new Notifier(url, log));
  const told = new Map<string, MoveRecord['state']>();
  const unlisten = moves.onChange(({ record }) => {
    const { move, state, vm, user, to, endedAtMs } = record;
    const status = STATUS[state];
    if (told.get(move) === state) return;
    told.set(move, state);
    if (endedAtMs !== null) told.delete(move);
    const address = user === null ? undefined : fleet.whereabouts(user)?.address;
    if (!status || address === undefined) return;
    const target = parseAddress(fleet.host(to.host ?? '')?.inventory?.address ?? '') ?? undefined;
    const notification = mobilityNotification({ status, vm, address, target, atMs: Date.now() });
    for (const notifier of notifiers) notifier.notify(notification);
  });
  return {
    async [Symbol.asyncDispose]() {
      unlisten();
      await Promise.all(notifiers.map((notifier) => notifier[Symbol.asyncDispose]()));
    },
  };
}
