import type { Logger } from 'pino';
import { sleep } from '../../base/async.ts';
import { asCloudapError } from '../../base/errors.ts';
import { SOURCE_RESTART_MAX_MS, SOURCE_RESTART_MS } from '../constants.ts';

/** What a source has seen at its own site. */
export interface Seen {
  readonly device: string;
  readonly kind: 'arrive' | 'leave';
  /** Unix time in ms; by default now. */
  readonly atMs?: number;
  /** IP address of the device, where the source knows it. */
  readonly address?: string;
  readonly signalDbm?: number;
}

export type Report = (seen: Seen) => void;

/** A way to learn that devices come and go. */
export interface PresenceSource {
  /** hostapd, dhcp, portal, mec. */
  readonly name: string;
  /** Reports until `signal` aborts; what it throws, or its end, has it started again. First it reports who is there. */
  run(report: Report, signal: AbortSignal): Promise<void>;
}

/** Runs a source for as long as the site's agent runs. */
export async function superviseSource(
  source: PresenceSource,
  report: Report,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  let pauseMs = SOURCE_RESTART_MS;
  while (!signal.aborted) {
    const startMs = performance.now();
    try {
      await source.run(report, signal);
      if (!signal.aborted) log.warn({ source: source.name }, 'presence source ended');
    } catch (error) {
      if (!signal.aborted)
        log.warn({ source: source.name, err: asCloudapError(error).message }, 'presence source');
    }
    // one that ran for long begins anew
    if (performance.now() - startMs > SOURCE_RESTART_MAX_MS) pauseMs = SOURCE_RESTART_MS;
    await sleep(pauseMs, signal).catch(() => {});
    pauseMs = Math.min(SOURCE_RESTART_MAX_MS, pauseMs * 2);
  }
}

const MAC = /^[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}$/i;

/** `AA-BB-…` or `aa:bb:…` as `aa:bb:…`; undefined if it is none. */
export function macOf(text: string): string | undefined {
  return MAC.test(text) ? text.toLowerCase().replaceAll('-', ':') : undefined;
}
