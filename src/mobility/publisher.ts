import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import { deviceIdSchema, type Presence } from '../control/messages.ts';
import type { ControlPlane } from '../control/plane.ts';
import { PUBLISH_RETRY_MS, WAITING_MAX } from './constants.ts';
import type { Seen } from './sources/source.ts';

/**
 * Brings what a site's sources have seen to the center. While the site is cut off the latest of each device waits; each message has an id, so that
 * one whose confirmation got lost counts once.
 */
export class PresencePublisher {
  readonly #site: string;
  readonly #log: Logger;
  readonly #waiting = new Map<string, Presence>();
  #wake = (): void => {};

  constructor(site: string, log: Logger) {
    this.#site = site;
    this.#log = log;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  report(source: string, seen: Seen): void {
    const device = deviceIdSchema.safeParse(seen.device.toLowerCase());
    if (!device.success) return;
    const { kind, atMs = Date.now(), address, signalDbm } = seen;
    this.#waiting.delete(device.data);
    this.#waiting.set(device.data, {
      version: 1,
      id: randomUUID(),
      device: device.data,
      site: this.#site,
      kind,
      source,
      atMs,
      ...(address === undefined ? {} : { address }),
      ...(signalDbm === undefined ? {} : { signalDbm }),
    });
    if (this.#waiting.size > WAITING_MAX) this.#waiting.delete(this.#waiting.keys().next().value ?? '');
    this.#wake();
  }

  /** Publishes from now on, until `signal` aborts. */
  async run(plane: Pick<ControlPlane, 'publishPresence'>, signal: AbortSignal): Promise<void> {
    const onAbort = (): void => this.#wake();
    signal.addEventListener('abort', onAbort, { once: true });
    while (!signal.aborted) {
      const [first] = this.#waiting.values();
      if (!first) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      try {
        await plane.publishPresence(first);
        // unless something newer has come meanwhile
        if (this.#waiting.get(first.device) === first) this.#waiting.delete(first.device);
      } catch (error) {
        if (signal.aborted) break;
        this.#log.info({ err: asCloudapError(error).message, waiting: this.waiting }, 'presence waits');
        await sleep(PUBLISH_RETRY_MS, signal).catch(() => {});
      }
    }
    signal.removeEventListener('abort', onAbort);
  }
}
