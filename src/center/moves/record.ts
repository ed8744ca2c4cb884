import { randomBytes } from 'node:crypto';
import type { MoveRecord, VmRecord, moveCauses } from '../../control/messages.ts';

export interface MoveRequest {
  /** By default a new one; the same id again is the same move. */
  move?: string;
  vm: string;
  toSite: string;
  /** A host of that site; by default the site chooses. */
  toHost?: string;
  user: string | null;
  cause: (typeof moveCauses)[number];
  reason: string;
  /** When the cause arose, e.g. the presence; by default now. */
  requestedAtMs?: number;
}

export const newMoveId = (): string => `mig-${randomBytes(6).toString('hex')}`;

/** The record of a move that nothing has been done for yet. */
export function newRecord(
  move: string,
  vm: VmRecord,
  { user, cause, reason, toSite, toHost, requestedAtMs }: MoveRequest,
): MoveRecord {
  return {
    version: 1,
    move,
    vm: vm.vm,
    name: vm.name,
    user,
    from: { site: vm.site, host: vm.host },
    to: { site: toSite, host: toHost ?? null },
    cause,
    reason,
    hostReason: null,
    state: 'queued',
    requestedAtMs: requestedAtMs ?? Date.now(),
    startedAtMs: null,
    endedAtMs: null,
    error: null,
    figures: null,
  };
}
