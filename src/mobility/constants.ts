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

/** Presence that waits for the control plane: the latest of each device. */
export const WAITING_MAX = 10_000;
/** What waits is tried again after this long. */
export const PUBLISH_RETRY_MS = 1_000;

/** A source that ended is started again after this long, twice as long after each further time. */
export const SOURCE_RESTART_MS = 1_000;
export const SOURCE_RESTART_MAX_MS = 60_000;

/** Longest line of a hook or of `hostapd_cli`. */
export const HOOK_LINE_MAX_BYTES = 1_024;
/** A lease file larger than this is not read at start. */
export const LEASES_MAX_BYTES = 16 * 1024 * 1024;

/** A browser that has said nothing for so long has left. */
export const PORTAL_SILENT_MS = 60_000;
/** Browsers that one site keeps track of. */
export const PORTAL_DEVICES_MAX = 10_000;
/** How long a device's token is good, unless said otherwise, and at most. */
export const DEVICE_TOKEN_TTL_MS = 30 * 24 * 60 * 60 * 1000;
export const DEVICE_TOKEN_TTL_MAX_MS = 366 * 24 * 60 * 60 * 1000;
/** Body of a request to a site's presence service, and requests of one address within a minute. */
export const PRESENCE_BODY_MAX_BYTES = 256 * 1024;
export const PRESENCE_REQUESTS_PER_MINUTE = 300;
/** Stations in one MEC 028 notification. */
export const MEC_STATIONS_MAX = 1_000;
/** Notifications (MEC 021) that wait for one address; the oldest are dropped. */
export const MEC_WAITING_MAX = 1_000;
export const MEC_TIMEOUT_MS = 5_000;
export const MEC_ATTEMPTS = 5;
export const MEC_RETRY_MS = 500;
