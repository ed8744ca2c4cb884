/** What the host says of its VMs is looked at this often besides the moments at which something is known to have changed. */
export const VM_SCAN_MS = 1_000;

/** The round trip to each connected host is measured this often. */
export const LINK_PROBE_MS = 10_000;

/** How long another host is dialled, and then has time to dial this one, before the two meet at a relay. */
export const DIRECT_TIMEOUT_MS = 2_000;

/** How long meeting at a relay may take. */
export const RELAY_TIMEOUT_MS = 5_000;

/** All ways together: less than a request may take, so that whoever asks for a migration hears that there is none. */
export const REACH_TIMEOUT_MS = 9_000;

/** Two hosts that had to meet at a relay begin with it again for so long. */
export const DIRECT_RETRY_MS = 10 * 60 * 1000;

/** A host looks this often whether it is connected with those that its VMs move to. */
export const KEEP_CONNECTED_MS = 2_000;

/** How much longer than what it does another host's answer may take. */
export const ANSWER_MS = 500;
