/** While a migration goes, its host is asked this often how; its own word comes earlier as a rule. */
export const MOVE_POLL_MS = 2_000;

/** Neither host of a move has answered for so long: it counts as failed; what became of the VM its hosts will say. */
export const MOVE_LOST_MS = 10 * 60_000;

/** Moves that may wait or go on at once. */
export const MOVES_ACTIVE_MAX = 10_000;

/** Moves that have ended and are kept. */
export const MOVES_KEPT = 10_000;

/** A site's agent that does not answer is asked again after this long, so often. */
export const PLACE_RETRY_MS = 500;
export const PLACE_ATTEMPTS = 6;

/** VMs that are not where they should be are looked at this often, besides after each change; and so many of the others. */
export const FOLLOW_SWEEP_MS = 2_000;
export const FOLLOW_SLICE = 2_000;

/** After a move that failed the next attempt waits for so long, twice as long after each further one. */
export const FOLLOW_BACKOFF_MS = 1_000;
export const FOLLOW_BACKOFF_MAX_MS = 60_000;

/** Moves on one link at once, and away from one host. */
export const MOVES_PER_LINK = 2;
export const MOVES_PER_HOST = 2;

/** A configuration file larger than this is refused unread. */
export const CENTER_CONFIG_MAX_BYTES = 64 * 1024;

/** How long a host may take to make and start a VM, and to start or stop one. */
export const VM_CREATE_TIMEOUT_MS = 120_000;
export const VM_REQUEST_TIMEOUT_MS = 60_000;

/** Hosts that are drained are looked at this often, besides when one begins to be. */
export const DRAIN_SWEEP_MS = 2_000;

/** Attempts to change the record of a site that others change, too. */
export const SITE_CHANGE_ATTEMPTS = 16;

/** A VM that was moved within its site is not moved by rebalancing again for so long. */
export const REBALANCE_REST_MS = 5 * 60_000;
