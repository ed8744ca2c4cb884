import type { JsMsg } from '@nats-io/jetstream';
import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import { presenceSchema, type Presence } from '../control/messages.ts';
import { STREAMS, type ControlPlane } from '../control/plane.ts';
import { token } from '../control/subjects.ts';
import { DEVICES_MAX, STRANGERS_MAX } from './constants.ts';
import { elapsed, sighted, unseen, type DeviceState } from './device.ts';
import { leading } from './user.ts';

const TICK_MS = 250;
const REOPEN_MS = 500;

export interface TrackerOptions {
  plane: ControlPlane;
  log: Logger;
  /** A user's place has changed. */
  onMoved: (user: string, site: string | null) => void;
  now?: () => number;
}

/**
 * Follows the stream of presence: where each device is, and with it its user. The stream keeps the latest of what each site
 * said of a device, so a center that starts goes through these first, and knows what one before it knew: nothing that was
 * not yet settled when that one was killed is lost, and the same place twice is no change.
 */
export class PresenceTracker {
  readonly #options: TrackerOptions;
  readonly #now: () => number;
  readonly #devices = new Map<string, DeviceState>();
  /** Devices whose place is still to be written, and what was seen last. */
  readonly #unsettled = new Map<string, Presence | undefined>();
  /** The devices of each user that were seen. */
  readonly #devicesOf = new Map<string, Set<string>>();
  readonly #ownerOf = new Map<string, string>();
  readonly #strangers = new Map<string, Presence>();
  readonly #stop = new AbortController();
  readonly #running: Promise<unknown>;
  #settling: Promise<void> | undefined;

  private constructor(options: TrackerOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#running = Promise.all([this.#follow(), this.#tick()]);
  }

  static start(options: TrackerOptions): PresenceTracker {
    return new PresenceTracker(options);
  }

  /** Devices that were seen and belong to nobody, the latest last. */
  strangers(): Presence[] {
    return [...this.#strangers.values()];
  }

  async #follow(): Promise<void> {
    const { signal } = this.#stop;
    const { plane, log } = this.#options;
    while (!signal.aborted) {
      try {
        const consumer = await plane.js.consumers.get(STREAMS.presence);
        let before = (await consumer.info()).num_pending;
        const messages = await consumer.consume();
        const stop = (): void => messages.stop();
        signal.addEventListener('abort', stop, { once: true });
        for await (const message of messages) {
          this.#take(message);
          // what was there already only says where everybody is by now
          if (before > 0) before -= 1;
          if (before === 0) void this.#settleAll();
        }
        signal.removeEventListener('abort', stop);
      } catch (error) {
        if (!signal.aborted) log.warn({ err: asCloudapError(error).message }, 'presence');
      }
      await sleep(REOPEN_MS, signal).catch(() => {});
    }
  }

  #take(message: JsMsg): void {
    let presence: Presence | undefined;
    try {
      presence = presenceSchema.safeParse(message.json()).data;
    } catch {
      presence = undefined;
    }
    if (!presence) {
      this.#options.log.warn({ subject: message.subject }, 'a presence message was ignored');
      return;
    }
    const { device } = presence;
    this.#keep(device, sighted(this.#devices.get(device) ?? unseen, presence));
    this.#unsettled.set(device, presence);
  }

  #keep(device: string, state: DeviceState): void {
    this.#devices.delete(device);
    this.#devices.set(device, state);
    if (this.#devices.size <= DEVICES_MAX) return;
    const oldest = this.#devices.keys().next().value ?? '';
    this.#devices.delete(oldest);
    this.#own(oldest, undefined);
  }

  async #tick(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await sleep(TICK_MS, signal).catch(() => {});
      const nowMs = this.#now();
      for (const [device, before] of this.#devices) {
        const after = elapsed(before, nowMs);
        if (after === before) continue;
        this.#devices.set(device, after);
        this.#unsettled.set(device, undefined);
      }
      await this.#settleAll();
    }
  }

  /** Writes what is not written yet; what fails stays for the next time. */
  async #settleAll(): Promise<void> {
    while (this.#settling) await this.#settling;
    if (this.#unsettled.size === 0) return;
    this.#settling = (async () => {
      for (const [device, presence] of this.#unsettled) {
        this.#unsettled.delete(device);
        const state = this.#devices.get(device) ?? unseen;
        try {
          await this.#settle(device, state, presence);
        } catch (error) {
          if (!this.#unsettled.has(device)) this.#unsettled.set(device, presence);
          if (this.#stop.signal.aborted) return;
          this.#options.log.warn({ err: asCloudapError(error).message, device }, 'presence');
          return;
        }
      }
    })().finally(() => (this.#settling = undefined));
    await this.#settling;
  }

  /** Whose the device is, as far as it matters here. */
  #own(device: string, user: string | undefined): void {
    const before = this.#ownerOf.get(device);
    if (before === user) return;
    if (before !== undefined) {
      const devices = this.#devicesOf.get(before);
      devices?.delete(device);
      if (devices?.size === 0) this.#devicesOf.delete(before);
    }
    this.#ownerOf.delete(device);
    if (user === undefined) return;
    this.#ownerOf.set(device, user);
    this.#devicesOf.set(user, (this.#devicesOf.get(user) ?? new Set()).add(device));
  }

  /** Writes where the user is, if that has changed. */
  async #settle(device: string, state: DeviceState, presence: Presence | undefined): Promise<void> {
    const { plane, onMoved } = this.#options;
    const owner = (await plane.buckets.devices.get(token(device)))?.value.user;
    this.#own(device, owner);
    if (owner === undefined) {
      if (presence) this.#stranger(presence);
      return;
    }
    if (state.pending) return;
    const { whereabouts } = plane.buckets;
    const found = await whereabouts.get(token(owner));
    const devices = this.#devicesOf.get(owner) ?? new Set<string>();
    const chosen = leading([...devices].map((each) => [each, this.#devices.get(each) ?? unseen] as const));
    const site = chosen?.site ?? null;
    if (found?.value.site === site || (!found && site === null)) return;
    // a device that was not heard of yet, as the center has just started, may be the one that arrived last
    const before = found?.value;
    if (before && before.site !== null && !devices.has(before.device))
      if (!chosen || before.sinceMs > chosen.sinceMs) return;
    const atMs = presence?.atMs ?? this.#now();
    const address = !chosen || chosen.device === device ? presence?.address : undefined;
    const record = {
      version: 1 as const,
      user: owner,
      site,
      device: chosen?.device ?? device,
      sinceMs: chosen?.sinceMs ?? atMs,
      ...(address === undefined ? {} : { address }),
    };
    await (found
      ? whereabouts.update(token(owner), record, found.revision)
      : whereabouts.create(token(owner), record));
    onMoved(owner, site);
  }

  #stranger(presence: Presence): void {
    this.#strangers.delete(presence.device);
    this.#strangers.set(presence.device, presence);
    if (this.#strangers.size > STRANGERS_MAX)
      this.#strangers.delete(this.#strangers.keys().next().value ?? '');
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }
}
