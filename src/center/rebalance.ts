import type { Fleet } from '../control/fleet.ts';
import type { MoveRecord } from '../control/messages.ts';
import { balance, type PlannedMove } from '../schedule/balance.ts';
import { balanceInput } from '../schedule/balance-site.ts';
import { REBALANCE_REST_MS } from './constants.ts';
import { failCenter } from './errors.ts';
import type { Moves } from './moves/moves.ts';

/** What was planned, and the move that was made of it; none in a dry run, or where the VM could not be moved any more. */
export interface Rebalanced extends PlannedMove {
  readonly move: MoveRecord | null;
  /** Why there is no move. */
  readonly problem: string | null;
}

/**
 * Evens out the hosts of a site by moving VMs between them. A VM that was moved within its site lately stays where it is.
 * @throws MOVE_SITE_UNKNOWN
 */
export async function rebalance(
  { fleet, moves }: { fleet: Fleet; moves: Moves },
  site: string,
  dryRun: boolean,
): Promise<Rebalanced[]> {
  if (!fleet.site(site)) throw failCenter('MOVE_SITE_UNKNOWN', site);
  const nowMs = Date.now();
  const resting = new Set(
    moves
      .list()
      .filter(({ record }) => record.endedAtMs === null || restsAfter(record, nowMs))
      .map(({ record }) => record.vm),
  );
  const { hosts, vms } = balanceInput(fleet, site, nowMs, ({ vm }) => !resting.has(vm));
  const plan = balance(hosts, vms);
  if (dryRun) return plan.map((planned) => ({ ...planned, move: null, problem: null }));
  return Promise.all(
    plan.map(async (planned): Promise<Rebalanced> => {
      const { vm, to: toHost, reason } = planned;
      const user = fleet.assignment(vm)?.user ?? null;
      try {
        const move = await moves.request({ vm, toSite: site, toHost, user, cause: 'rebalance', reason });
        return { ...planned, move, problem: null };
      } catch (error) {
        return { ...planned, move: null, problem: error instanceof Error ? error.message : String(error) };
      }
    }),
  );
}

const restsAfter = ({ from, to, state, endedAtMs }: MoveRecord, nowMs: number): boolean =>
  from.site === to.site &&
  state === 'completed' &&
  endedAtMs !== null &&
  nowMs - endedAtMs < REBALANCE_REST_MS;
