/** Exit codes, the same for every command; docs/SITE.md lists them. */
export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;
export const EXIT_UNREACHABLE = 3;
export const EXIT_CANCELLED = 130;

/** Progress on a terminal is redrawn at most this often. */
export const REDRAW_INTERVAL_MS = 100;

/** Without a terminal progress is a line at each new phase and at most one in this time. */
export const PLAIN_INTERVAL_MS = 1000;
