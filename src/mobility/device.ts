import { FLAP_CHANGES, FLAP_SETTLE_MS, FLAP_WINDOW_MS, LEAVE_GRACE_MS } from './constants.ts';

/** What is known of one device. Times are Unix time in ms, as in the messages. */
export interface DeviceState {
  /** Where it counts as being; null: nowhere. */
  readonly site: string | null;
  /** When it arrived there, or was found to have left. */
  readonly siteSinceMs: number;
  /** Where it was seen last, and since when, if that does not count yet. */
  readonly pending: { readonly site: string | null; readonly sinceMs: number; readonly dueMs: number } | null;
  /** Where it was seen last. An arrival at the next site may come before the leave at the last, which then says nothing. */
  readonly seen: string | null;
  /** When it last changed its place, newest last. */
  readonly changesAtMs: readonly number[];
  /** Of the last message: older ones say nothing. */
  readonly lastAtMs: number;
}

export const unseen: DeviceState = {
  site: null,
  siteSinceMs: 0,
  pending: null,
  seen: null,
  changesAtMs: [],
  lastAtMs: 0,
};

export interface Sighting {
  readonly kind: 'arrive' | 'leave';
  readonly site: string;
  readonly atMs: number;
}

/**
 * The next state (debounce and hysteresis). A clear arrival counts at once. A device that has changed its place more than
 * FLAP_CHANGES times within FLAP_WINDOW_MS flaps: then it counts as being at a site only when it has been there for
 * FLAP_SETTLE_MS, so that somebody who walks along a boundary has one VM that stays. A leave counts when no
 * arrival follows within LEAVE_GRACE_MS.
 */
export function sighted(state: DeviceState, { kind, site, atMs }: Sighting): DeviceState {
  if (atMs < state.lastAtMs) return state;
  if (kind === 'leave' && site !== state.seen) return { ...state, lastAtMs: atMs };
  const wanted = kind === 'arrive' ? site : null;
  const next = { ...state, seen: wanted, lastAtMs: atMs };
  if (wanted === state.site) return { ...next, pending: null };
  if (state.pending && state.pending.site === wanted) return next;
  const changesAtMs = [...state.changesAtMs.filter((time) => atMs - time <= FLAP_WINDOW_MS), atMs];
  const flaps = changesAtMs.length > FLAP_CHANGES;
  if (wanted === null)
    return { ...next, pending: { site: null, sinceMs: atMs, dueMs: atMs + LEAVE_GRACE_MS } };
  if (!flaps) return { ...next, site: wanted, siteSinceMs: atMs, pending: null, changesAtMs };
  return {
    ...next,
    changesAtMs,
    pending: { site: wanted, sinceMs: atMs, dueMs: atMs + FLAP_SETTLE_MS },
  };
}

/** Time has passed: what was pending may count by now. */
export function elapsed(state: DeviceState, nowMs: number): DeviceState {
  const { pending } = state;
  if (!pending || nowMs < pending.dueMs) return state;
  return { ...state, site: pending.site, siteSinceMs: pending.sinceMs, pending: null };
}
