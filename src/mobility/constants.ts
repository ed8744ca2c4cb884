/** A device that has left, and arrived nowhere, is nowhere after this long: a phone sleeps, a hand-over takes a moment. */
export const LEAVE_GRACE_MS = 15_000;

/** Changes of site of one device within FLAP_WINDOW_MS that are followed at once. */
export const FLAP_CHANGES = 2;
export const FLAP_WINDOW_MS = 30_000;

/** While a device flaps it must have been at a site for this long before it counts as being there. */
export const FLAP_SETTLE_MS = 10_000;

/** Devices that are kept track of, and those without a user that are remembered for an administrator. */
export const DEVICES_MAX = 200_000;
export const STRANGERS_MAX = 1_000;
