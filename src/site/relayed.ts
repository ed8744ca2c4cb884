import type { Socket } from 'node:net';
import type { Logger } from 'pino';
import { openRelayedRoute, type RelayAddress, type RelayedRoute } from '../link/relay/listen.ts';
import type { TlsMaterial } from '../link/tls.ts';
import { formatAddress } from './config-text.ts';
import { ROUTE_AGENT } from './constants.ts';

interface WayIn {
  address: RelayAddress;
  route: RelayedRoute;
}

/** Sites that reach this one through a relay: its agent waits there for them, and so do movers for theirs. */
export class RelayedPeers {
  readonly #tls: TlsMaterial;
  readonly #log: Logger;
  readonly #onSocket: (socket: Socket) => void;
  /** By the relay's id and address. */
  readonly #ways = new Map<string, WayIn>();
  /** The way of each peer. */
  readonly #peers = new Map<string, string>();

  constructor(tls: TlsMaterial, log: Logger, onSocket: (socket: Socket) => void) {
    this.#tls = tls;
    this.#log = log;
    this.#onSocket = onSocket;
  }

  /** Returns when `peer` can come. @throws LINK_*, RPC_*: why the relay cannot be reached */
  async listenFor(peer: string, address: RelayAddress): Promise<void> {
    const key = `${address.relay} ${formatAddress(address)}`;
    let way = this.#ways.get(key);
    if (!way) {
      const onFailed = (error: Error): void =>
        this.#log.info({ relay: address.relay, err: error.message }, 'way through a relay');
      const route = openRelayedRoute({
        address,
        route: ROUTE_AGENT,
        tls: this.#tls,
        onSocket: this.#onSocket,
        onFailed,
      });
      way = { address, route };
      this.#ways.set(key, way);
    }
    this.#peers.set(peer, key);
    try {
      await way.route.opened();
    } catch (error) {
      if (this.#peers.get(peer) === key) this.#peers.delete(peer);
      throw error;
    } finally {
      await this.#closeUnused();
    }
  }

  relayFor(peer: string): RelayAddress | undefined {
    return this.#ways.get(this.#peers.get(peer) ?? '')?.address;
  }

  async #closeUnused(): Promise<void> {
    const used = new Set(this.#peers.values());
    for (const [key, way] of this.#ways) {
      if (used.has(key)) continue;
      this.#ways.delete(key);
      await way.route[Symbol.asyncDispose]();
    }
  }

  async close(): Promise<void> {
    this.#peers.clear();
    await this.#closeUnused();
  }
}
