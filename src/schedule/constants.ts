/** A reservation that nobody uses ends by itself: longer than a migration takes to be prepared and to show in the host's own figures. */
export const RESERVATION_MS = 120_000;

/** Attempts of a placement that loses its host to another one. */
export const PLACE_ATTEMPTS = 16;

/** Load of processors from which on a site counts as overloaded, and below which it no longer does. */
export const OVERLOADED_CPU = 0.9;
export const RELIEVED_CPU = 0.7;

/**
 * How much fuller the fullest host of a site must be than the emptiest, as a share of a host, before VMs are moved between
 * them, and down to what that goes on; and what a move must bring to be worth its traffic.
 */
export const BALANCE_SPREAD_START = 0.25;
export const BALANCE_SPREAD_STOP = 0.1;
export const BALANCE_GAIN_MIN = 0.05;

/** Moves of one plan; the next plan looks at what has become of them. */
export const BALANCE_MOVES_MAX = 8;

/** Where a VM cannot be at its user's site, a third one must be so much nearer than the present one to be worth a move. */
export const NEARER_FACTOR = 2;
export const NEARER_BY_MS = 5;
