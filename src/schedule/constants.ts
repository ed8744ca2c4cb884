/** A reservation that nobody uses ends by itself: longer than a migration takes to be prepared and to show in the host's own figures. */
export const RESERVATION_MS = 120_000;

/** Attempts of a placement that loses its host to another one. */
export const PLACE_ATTEMPTS = 16;

/** Load of processors from which on a site counts as overloaded, and below which it no longer does. */
export const OVERLOADED_CPU = 0.9;
export const RELIEVED_CPU = 0.7;
