import type { Logger } from 'pino';
import { abortable } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import type { Inventory } from '../control/messages.ts';
import type { RelayAddress } from '../link/relay/listen.ts';
import { formatAddress, parseAddress } from '../site/config-text.ts';
import type { Address } from '../site/config.ts';
import type { Peers } from '../site/peers.ts';
import { DIRECT_RETRY_MS, DIRECT_TIMEOUT_MS, REACH_TIMEOUT_MS, RELAY_TIMEOUT_MS } from './constants.ts';
import { failHost } from './errors.ts';
import type { Connect } from './messages.ts';

export interface ReachOptions {
  /** This host. */
  host: string;
  /** Where others dial it; undefined: nowhere. */
  address: Address | undefined;
  /** Site id of the center, whose hosts may relay. */
  center: string;
  peers: Pick<Peers, 'isConnected' | 'connect' | 'connected' | 'listenFor'>;
  /** What hosts say of themselves; `*` is any site, or any host. */
  inventories: (site: string, host: string) => Promise<Inventory[]>;
  /** Asks another host with `connect`; returns when it has done so. */
  ask: (host: string, params: Connect, timeoutMs: number) => Promise<void>;
  log: Logger;
  /** Monotonic, in ms. */
  now?: () => number;
  /** For all ways together. */
  timeoutMs?: number;
}

type Way = (host: string, signal: AbortSignal) => Promise<void>;

/**
 * How this host comes to a connection with another one: it dials, or has itself dialled, or both meet at a relay of the
 * center's. Two hosts that could not reach each other lately begin with the relay.
 */
export class Reach {
  readonly #options: ReachOptions;
  /** Until when a host counts as not to be reached directly. */
  readonly #apartUntilMs = new Map<string, number>();
  readonly #underWay = new Map<string, Promise<void>>();

  constructor(options: ReachOptions) {
    this.#options = options;
  }

  /** Has a connection with another host. @throws HOST_NO_ROUTE: why each way failed */
  async connect(host: string, signal: AbortSignal): Promise<void> {
    if (this.#options.peers.isConnected(host)) return;
    let attempt = this.#underWay.get(host);
    if (!attempt) {
      attempt = this.#connect(host, signal).finally(() => this.#underWay.delete(host));
      this.#underWay.set(host, attempt);
    }
    await attempt;
  }

  async #connect(host: string, ended: AbortSignal): Promise<void> {
    const { host: self, timeoutMs = REACH_TIMEOUT_MS } = this.#options;
    const signal = AbortSignal.any([ended, AbortSignal.timeout(timeoutMs)]);
    const direct: Way[] = [this.#dial, this.#haveDialled];
    const isApart = (this.#apartUntilMs.get(host) ?? -Infinity) > this.#now();
    const ways = isApart ? [this.#meet, ...direct] : [...direct, this.#meet];
    const failures: string[] = [];
    for (const way of ways) {
      try {
        await abortable(way(host, signal), signal);
        if (way !== this.#meet) this.#apartUntilMs.delete(host);
        return;
      } catch (error) {
        ended.throwIfAborted();
        failures.push(signal.aborted ? `no way within ${timeoutMs} ms` : asCloudapError(error).message);
        if (signal.aborted) break;
      }
    }
    throw failHost('HOST_NO_ROUTE', `${self} and ${host}: ${failures.join('; ')}`);
  }

  readonly #dial: Way = async (host, signal) => {
    const [found] = await this.#options.inventories('*', host);
    const address = parseAddress(found?.address ?? '');
    if (!address) throw failHost('HOST_NO_ROUTE', `${host} has no address`);
    await this.#options.peers.connect(host, address, signal, DIRECT_TIMEOUT_MS);
  };

  readonly #haveDialled: Way = async (host, signal) => {
    const { host: self, address, ask, peers } = this.#options;
    if (!address) throw failHost('HOST_NO_ROUTE', `${self} has no address`);
    await ask(host, { host: self, address: formatAddress(address) }, DIRECT_TIMEOUT_MS);
    await peers.connected(host, signal, DIRECT_TIMEOUT_MS);
  };

  readonly #meet: Way = async (host, signal) => {
    const { host: self, ask, peers, log } = this.#options;
    const failures: string[] = [];
    for (const address of await this.#relays('*')) {
      const { relay } = address;
      if (relay === host || relay === self) continue;
      try {
        await ask(host, { host: self, relay }, RELAY_TIMEOUT_MS);
        await peers.connect(host, address, signal, RELAY_TIMEOUT_MS);
        this.#apartUntilMs.set(host, this.#now() + DIRECT_RETRY_MS);
        log.info({ host, relay }, 'met at a relay');
        return;
      } catch (error) {
        signal.throwIfAborted();
        failures.push(`${relay}: ${asCloudapError(error).message}`);
      }
    }
    throw failHost('HOST_NO_ROUTE', failures.join('; ') || 'no host of the center relays');
  };

  /** What another host asks with `connect`. @throws SITE_NOT_CONNECTED, HOST_NO_ROUTE; LINK_*, RPC_* of the relay */
  async asked(ask: Connect, signal: AbortSignal): Promise<void> {
    const { peers } = this.#options;
    if ('relay' in ask) {
      // by the center's own records: nobody can have us go to just any place
      const [address] = await this.#relays(ask.relay);
      if (!address) throw failHost('HOST_NO_ROUTE', `${ask.relay} does not relay`);
      await peers.listenFor(ask.host, address);
      return;
    }
    const address = parseAddress(ask.address);
    if (!address) throw failHost('HOST_NO_ROUTE', ask.address);
    await peers.connect(ask.host, address, signal, DIRECT_TIMEOUT_MS);
  }

  /** Hosts of the center that relay, in any order, so that all are used. */
  async #relays(host: string): Promise<RelayAddress[]> {
    const found = await this.#options.inventories(this.#options.center, host);
    return found
      .filter(({ relay }) => relay)
      .flatMap(({ host: relay, address }) => {
        const parsed = parseAddress(address ?? '');
        return parsed ? [{ ...parsed, relay }] : [];
      })
      .sort(() => Math.random() - 0.5);
  }

  #now(): number {
    return this.#options.now?.() ?? performance.now();
  }
}
