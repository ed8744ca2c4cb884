/** What the host says of its VMs is looked at this often besides the moments at which something is known to have changed. */
export const VM_SCAN_MS = 1_000;

/** The round trip to each connected host is measured this often. */
export const LINK_PROBE_MS = 10_000;
