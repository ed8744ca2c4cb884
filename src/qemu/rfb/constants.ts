/** Largest screen, in pixels a side; a framebuffer has four bytes a pixel, so 64 MiB at most. */
export const MAX_SCREEN_SIDE_PIXELS = 4096;
/** Longest desktop name or reason for a refusal that a server may send. */
export const MAX_RFB_TEXT_BYTES = 4096;
/** Longest clipboard text that is skipped; a longer one ends the session. */
export const MAX_CUT_TEXT_BYTES = 1024 * 1024;
/** Rectangles in one update. */
export const MAX_RECTANGLES = 16_384;
/** How long the handshake may take. */
export const RFB_CONNECT_TIMEOUT_MS = 10_000;
/** How long a full screen may take to arrive after it was asked for. */
export const RFB_REFRESH_TIMEOUT_MS = 15_000;
/** Between key events: guests under TCG lose keys that come faster than their keyboard controller polls. */
export const KEY_DELAY_MS = 30;
/** Bytes of one pixel in the only format that is asked for: blue, green, red, unused. */
export const PIXEL_BYTES = 4;
