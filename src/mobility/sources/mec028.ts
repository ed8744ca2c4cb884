import * as z from 'zod';
import { MEC_STATIONS_MAX } from '../constants.ts';
import { macOf, type Report } from './source.ts';

/**
 * AssocStaNotification of ETSI GS MEC 028 V2.3.1 (WLAN information), as far as we read it: the stations that are associated with an access
 * point now.
 */
export const assocStaNotificationSchema = z.object({
  notificationType: z.literal('AssocStaNotification'),
  timeStamp: z
    .object({ seconds: z.int().nonnegative(), nanoSeconds: z.int().min(0).max(999_999_999) })
    .optional(),
  apId: z.object({ bssid: z.string().min(1).max(64) }),
  staId: z
    .array(z.object({ macId: z.string().max(64) }))
    .max(MEC_STATIONS_MAX)
    .default([]),
});
export type AssocStaNotification = z.infer<typeof assocStaNotificationSchema>;

/** Tells who has come and who has gone from one notification of an access point to its next. */
export class Associations {
  readonly #byAp = new Map<string, { stations: Set<string>; atMs: number }>();
  readonly #known: ReadonlySet<string>;

  /** @param accessPoints of this site (BSSIDs); those of others are somebody else's. Empty: all. */
  constructor(accessPoints: readonly string[]) {
    this.#known = new Set(accessPoints.map((id) => macOf(id) ?? id));
  }

  /** Whether it was taken: of an access point of this site, and newer than the last. */
  take({ apId, timeStamp, staId }: AssocStaNotification, report: Report, nowMs = Date.now()): boolean {
    const ap = macOf(apId.bssid) ?? apId.bssid;
    if (this.#known.size > 0 && !this.#known.has(ap)) return false;
    const atMs = timeStamp ? timeStamp.seconds * 1000 + Math.floor(timeStamp.nanoSeconds / 1e6) : nowMs;
    const before = this.#byAp.get(ap);
    if (before && atMs < before.atMs) return false;
    const stations = new Set(staId.map(({ macId }) => macOf(macId)).filter((mac) => mac !== undefined));
    this.#byAp.set(ap, { stations, atMs });
    for (const device of stations)
      if (!before?.stations.has(device)) report({ device, kind: 'arrive', atMs });
    // it may have gone to another access point of the site
    for (const device of before?.stations ?? [])
      if (!this.#isHere(device)) report({ device, kind: 'leave', atMs });
    return true;
  }

  #isHere(device: string): boolean {
    return [...this.#byAp.values()].some(({ stations }) => stations.has(device));
  }
}
