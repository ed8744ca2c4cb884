import type { Logger } from 'pino';
import * as z from 'zod';
import { asCloudapError } from '../base/errors.ts';
import type { ControlPlane } from '../control/plane.ts';
import { request } from '../control/requests.ts';
import { hostSubject } from '../control/subjects.ts';
import type { RelayAddress } from '../link/relay/listen.ts';
import { formatAddress, parseAddress } from '../site/config-text.ts';
import type { Site } from '../site/site.ts';
import { DIRECT_RETRY_MS, DIRECT_TIMEOUT_MS, RELAY_TIMEOUT_MS } from './constants.ts';
import { failHost } from './errors.ts';
import type { Connect } from './messages.ts';

type Way = (host: string, signal: AbortSignal) => Promise<void>;

/**
 * How this host comes to a connection with another one: it dials, or has itself dialled, or both meet at a relay of the
 * center's. Two hosts that could not reach each other lately begin with the relay.
 */
export class Reach {
  readonly #site: Site;
  readonly #plane: ControlPlane;
  /** Site id of the center. */
  readonly #center: string;
  readonly #log: Logger;
  /** Until when (monotonic, in ms) a host counts as not to be reached directly. */
  readonly #apartUntilMs = new Map<string, number>();
  readonly #under = new Map<string, Promise<void>>();

  constructor(site: Site, plane: ControlPlane, center: string, log: Logger) {
    this.#site = site;
    this.#plane = plane;
    this.#center = center;
    this.#log = log;
  }

  /** Has a connection with another host. @throws HOST_NO_ROUTE: why each way failed */
  async connect(host: string, signal: AbortSignal): Promise<void> {
    if (this.#site.peers.isConnected(host)) return;
    const under =
      this.#under.get(host) ?? this.#connect(host, signal).finally(() => this.#under.delete(host));
    this.#under.set(host, under);
    await under;
  }

  async #connect(host: string, signal: AbortSignal): Promise<void> {
    const direct: Way[] = [this.#dial, this.#haveDialled];
    const isApart = (this.#apartUntilMs.get(host) ?? -Infinity) > performance.now();
    const ways = isApart ? [this.#meet, ...direct] : [...direct, this.#meet];
    const failures: string[] = [];
    for (const way of ways) {
      try {
        await way(host, signal);
        if (way !== this.#meet) this.#apartUntilMs.delete(host);
        return;
      } catch (error) {
        signal.throwIfAborted();
        failures.push(asCloudapError(error).message);
      }
    }
    throw failHost('HOST_NO_ROUTE', `${this.#site.config.id} and ${host}: ${failures.join('; ')}`);
  }

  readonly #dial: Way = async (host, signal) => {
    const address = parseAddress((await this.#inventory('*', host))?.address ?? '');
    if (!address) throw failHost('HOST_NO_ROUTE', `${host} has no address`);
    await this.#site.peers.connect(host, address, signal, DIRECT_TIMEOUT_MS);
  };

  readonly #haveDialled: Way = async (host, signal) => {
    const { config, peers } = this.#site;
    const own = config.link.advertise ?? config.link.listen;
    if (!own) throw failHost('HOST_NO_ROUTE', `${config.id} has no address`);
    await this.#ask(host, { host: config.id, address: formatAddress(own) }, DIRECT_TIMEOUT_MS);
    await peers.connected(host, signal, DIRECT_TIMEOUT_MS);
  };

  readonly #meet: Way = async (host, signal) => {
    const { config, peers } = this.#site;
    const relays = await this.#relays();
    if (relays.length === 0) throw failHost('HOST_NO_ROUTE', 'no host of the center relays');
    const failures: string[] = [];
    for (const relay of relays.filter((id) => id !== host && id !== config.id)) {
      try {
        const address = await this.#relayAddress(relay);
        await this.#ask(host, { host: config.id, relay }, RELAY_TIMEOUT_MS);
        await peers.connect(host, address, signal, RELAY_TIMEOUT_MS);
        this.#apartUntilMs.set(host, performance.now() + DIRECT_RETRY_MS);
        this.#log.info({ host, relay }, 'met at a relay');
        return;
      } catch (error) {
        signal.throwIfAborted();
        failures.push(`${relay}: ${asCloudapError(error).message}`);
      }
    }
    throw failHost('HOST_NO_ROUTE', failures.join('; '));
  };

  /** What another host asks with `connect`. @throws SITE_NOT_CONNECTED, HOST_NO_ROUTE; LINK_*, RPC_* of the relay */
  async asked(ask: Connect, signal: AbortSignal): Promise<void> {
    const { peers } = this.#site;
    if ('relay' in ask) {
      await peers.listenFor(ask.host, await this.#relayAddress(ask.relay));
      return;
    }
    const address = parseAddress(ask.address);
    if (!address) throw failHost('HOST_NO_ROUTE', ask.address);
    await peers.connect(ask.host, address, signal, DIRECT_TIMEOUT_MS);
  }

  async #ask(host: string, params: Connect, timeoutMs: number): Promise<void> {
    const { connection } = this.#plane;
    // its own attempt takes as long, and it should say itself why it failed
    await request(connection, hostSubject(host, 'connect'), params, z.unknown(), {
      timeoutMs: timeoutMs + 500,
    });
  }

  async #inventory(site: string, host: string) {
    const { inventories } = this.#plane.buckets;
    const [key] = await inventories.keys(`${site}.${host}`);
    return key === undefined ? undefined : (await inventories.get(key))?.value;
  }

  /** Hosts of the center that relay, in any order, so that all are used. */
  async #relays(): Promise<string[]> {
    const { inventories } = this.#plane.buckets;
    const keys = await inventories.keys(`${this.#center}.*`);
    const all = await Promise.all(keys.map(async (key) => (await inventories.get(key))?.value));
    const relays = all.filter((found) => found?.relay === true && found.address !== null);
    return relays.map((found) => found?.host ?? '').sort(() => Math.random() - 0.5);
  }

  /** By the center's own records: nobody can have us dial just anything. */
  async #relayAddress(relay: string): Promise<RelayAddress> {
    const found = await this.#inventory(this.#center, relay);
    const address = found?.relay === true ? parseAddress(found.address ?? '') : undefined;
    if (!address) throw failHost('HOST_NO_ROUTE', `${relay} does not relay`);
    return { host: address.host, port: address.port, relay };
  }
}
