import type { DeviceState } from './device.ts';

/** Where one device of a user counts as being, and since when (Unix time in ms). */
export interface Placed {
  readonly device: string;
  readonly site: string;
  readonly sinceMs: number;
}

/**
 * Which of a user's devices says where the user is: of those that are somewhere, the one that arrived last. A laptop that
 * stays on a desk and says so again and again does not draw its user back; when the phone has left, the laptop counts.
 * Arrivals at the same time: the greater name, so that every center says the same.
 */
export function leading(devices: Iterable<readonly [string, DeviceState]>): Placed | undefined {
  let found: Placed | undefined;
  for (const [device, { site, siteSinceMs: sinceMs }] of devices) {
    if (site === null) continue;
    if (!found || sinceMs > found.sinceMs || (sinceMs === found.sinceMs && device > found.device))
      found = { device, site, sinceMs };
  }
  return found;
}
