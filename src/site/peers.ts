import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import type { RpcHandlers, RpcPeer } from '../link/rpc.ts';
import type { RelayAddress } from '../link/relay/listen.ts';
import { dialRpcTls, serveRpcTls, type RpcClient, type RpcServer } from '../link/rpc-tls.ts';
import type { TlsMaterial } from '../link/tls.ts';
import type { SiteView } from './api/messages.ts';
import { formatAddress } from './config-text.ts';
import type { Address, SiteConfig } from './config.ts';
import { CONNECT_POLL_MS, CONNECT_TIMEOUT_MS, PEER_CALL_TIMEOUT_MS, ROUTE_AGENT } from './constants.ts';
import { failSite } from './errors.ts';
import { helloSchema, type Hello } from './migrate/messages.ts';
import { parseParams } from './migrate/params.ts';
import type { SitePaths } from './paths.ts';
import type { PeerRpc } from './ports.ts';
import { RelayedPeers } from './relayed.ts';

/** A gateway; with `relay` that site's, which passes on what is meant for the other. */
export interface PeerAddress extends Address {
  relay?: string | undefined;
}

export interface PeersOptions {
  config: SiteConfig;
  paths: SitePaths;
  tls: TlsMaterial;
  hello: Hello;
  /** What another site may call, by its authenticated id. */
  handlers: (site: string) => RpcHandlers;
  onConnected: (site: string) => void;
  log: Logger;
}

interface Connection {
  peer: RpcPeer;
  direction: 'dialled' | 'accepted';
  sinceMs: number;
  hello: Hello | undefined;
}

/** The other sites: those that the configuration dials, and those that have called. One RPC connection each. */
export class Peers {
  readonly #options: PeersOptions;
  readonly #clients = new Map<string, RpcClient>();
  readonly #connections = new Map<string, Connection>();
  readonly #errors = new Map<string, Error>();
  /** Of sites that are dialled on demand, besides those of the configuration. */
  readonly #addresses = new Map<string, PeerAddress>();
  readonly #relayed: RelayedPeers;
  #server: RpcServer | undefined;

  private constructor(options: PeersOptions) {
    this.#options = options;
    this.#relayed = new RelayedPeers(options.tls, options.log, (socket) => this.#server?.take(socket));
  }

  /** Serves route `agent` for those who come through the gateway or a relay, and dials the configured sites again and again. */
  static async start(options: PeersOptions): Promise<Peers> {
    const peers = new Peers(options);
    const { config, paths, tls, log } = options;
    peers.#server = await serveRpcTls({
      socketPath: paths.linkSocket(ROUTE_AGENT),
      tls,
      handlers: (site) => peers.#handlers(site),
      onPeer: (peer) => peers.#connected(peer.peerSiteId, peer, 'accepted'),
      onRefused: (error) => log.warn({ err: error.message }, 'a connection was refused'),
    });
    for (const { site, address } of config.link.dial) peers.#dial(site, address);
    return peers;
  }

  /** This site has another certificate: from the next connection on, dialled or accepted. */
  renew(tls: TlsMaterial): void {
    // those that dial again hold this very object
    Object.assign(this.#options.tls, { ca: tls.ca, cert: tls.cert, key: tls.key });
    this.#server?.renew(tls);
  }

  #dial(site: string, address: PeerAddress): void {
    const client = dialRpcTls({
      address,
      route: ROUTE_AGENT,
      tls: this.#options.tls,
      expectedPeer: site,
      handlers: this.#handlers(site),
      onConnect: (peer) => this.#connected(site, peer, 'dialled'),
      onDisconnect: (cause) => this.#noteError(site, cause),
    });
    this.#clients.set(site, client);
  }

  /**
   * Has a connection with a site that the configuration does not name; dials `address` if there is none, and gives that
   * up after `timeoutMs`.
   * @throws SITE_NOT_CONNECTED
   */
  async connect(
    site: string,
    address: PeerAddress,
    signal?: AbortSignal,
    timeoutMs = CONNECT_TIMEOUT_MS,
  ): Promise<void> {
    if (this.isConnected(site)) return;
    const before = this.#addresses.get(site) ?? this.#configured(site);
    if (!before || addressText(before) !== addressText(address)) {
      const old = this.#clients.get(site);
      this.#addresses.set(site, address);
      this.#dial(site, address);
      await old?.[Symbol.asyncDispose]();
    }
    try {
      await this.connected(site, signal, timeoutMs);
    } catch (error) {
      await this.#forget(site, address);
      throw error;
    }
  }

  /** Has `site` come through a relay. Returns when it can. @throws LINK_*, RPC_* */
  async listenFor(site: string, relay: RelayAddress): Promise<void> {
    await this.#relayed.listenFor(site, relay);
  }

  /** The relay through which the site comes, if it does. */
  relayFor(site: string): RelayAddress | undefined {
    return this.#relayed.relayFor(site);
  }

  /** Dials it no more there, unless it has been given another address by now. */
  async #forget(site: string, address: PeerAddress): Promise<void> {
    const given = this.#addresses.get(site);
    if (!given || addressText(given) !== addressText(address)) return;
    this.#addresses.delete(site);
    const client = this.#clients.get(site);
    this.#clients.delete(site);
    const configured = this.#configured(site);
    if (configured) this.#dial(site, configured);
    await client?.[Symbol.asyncDispose]();
  }

  isConnected(site: string): boolean {
    return this.#connections.get(site)?.hello !== undefined;
  }

  /** Waits until the site is connected, whoever dialled. @throws SITE_NOT_CONNECTED */
  async connected(site: string, signal?: AbortSignal, timeoutMs = CONNECT_TIMEOUT_MS): Promise<void> {
    const untilMs = performance.now() + timeoutMs;
    while (!this.isConnected(site)) {
      if (performance.now() > untilMs)
        throw failSite('SITE_NOT_CONNECTED', `${site}: ${this.#errors.get(site)?.message ?? 'no answer'}`);
      await sleep(CONNECT_POLL_MS, signal);
    }
  }

  #handlers(site: string): RpcHandlers {
    return {
      ...this.#options.handlers(site),
      'site.hello': (params, { peer }) => {
        const hello = parseParams(helloSchema, params);
        const connection = this.#connections.get(site);
        if (connection?.peer === peer) connection.hello = hello;
        return Promise.resolve(this.#options.hello);
      },
    };
  }

  #connected(site: string, peer: RpcPeer, direction: Connection['direction']): void {
    const { log, hello } = this.#options;
    if (site === this.#options.config.id) {
      log.error({ peer: site }, 'a connection with this site’s own certificate was closed');
      peer.close();
      return;
    }
    const connection: Connection = { peer, direction, sinceMs: Date.now(), hello: undefined };
    this.#connections.set(site, connection);
    this.#errors.delete(site);
    log.info({ peer: site, direction }, 'site connected');
    void peer.closed.then((cause) => {
      log.info({ peer: site, direction, why: cause.message }, 'site disconnected');
      if (this.#connections.get(site) === connection) this.#connections.delete(site);
      this.#noteError(site, cause);
    });
    peer.call('site.hello', hello, { timeoutMs: PEER_CALL_TIMEOUT_MS }).then(
      (answer) => {
        connection.hello = parseParams(helloSchema, answer);
        this.#options.onConnected(site);
      },
      (error: unknown) => this.#noteError(site, asCloudapError(error)),
    );
  }

  #noteError(site: string, error: Error): void {
    const before = this.#errors.get(site);
    this.#errors.set(site, error);
    if (before?.message !== error.message)
      this.#options.log.info({ peer: site, err: error.message }, 'site not reached');
  }

  /** @throws SITE_UNKNOWN, SITE_NOT_CONNECTED (its cause: why) */
  get(site: string): PeerRpc {
    const connection = this.#connections.get(site);
    if (connection) return connection.peer;
    const error = this.#errors.get(site);
    if (!error && !this.#clients.has(site)) throw failSite('SITE_UNKNOWN', site);
    throw failSite('SITE_NOT_CONNECTED', error ? `${site}: ${error.message}` : site, { cause: error });
  }

  /** Measures the round trip to a connected site, in ms, the agents' own work included. @throws SITE_*, RPC_* */
  async roundTripMs(site: string): Promise<number> {
    const sinceMs = performance.now();
    await this.get(site).call('site.hello', this.#options.hello, { timeoutMs: PEER_CALL_TIMEOUT_MS });
    return performance.now() - sinceMs;
  }

  /** What this site dials to reach the other; nothing if it is the other that does. */
  dialAddress(site: string): PeerAddress | undefined {
    if (this.#connections.get(site)?.direction === 'accepted')
      return this.relayFor(site) ? undefined : this.#configured(site);
    return this.#addresses.get(site) ?? this.#configured(site);
  }

  #configured(site: string): Address | undefined {
    return this.#options.config.link.dial.find((entry) => entry.site === site)?.address;
  }

  list(): SiteView[] {
    const sites = new Set([...this.#clients.keys(), ...this.#connections.keys(), ...this.#errors.keys()]);
    return [...sites].sort().map((site) => this.#view(site));
  }

  #view(site: string): SiteView {
    const connection = this.#connections.get(site);
    const address = this.dialAddress(site) ?? this.relayFor(site);
    const error = connection ? undefined : this.#errors.get(site);
    return {
      id: site,
      self: false,
      connected: connection !== undefined,
      direction: connection?.direction ?? null,
      address: address ? addressText(address) : null,
      connectedSinceMs: connection?.sinceMs ?? null,
      qemuVersion: connection?.hello?.qemuVersion ?? null,
      accelerator: connection?.hello?.accelerator ?? null,
      error: error ? { ...asCloudapError(error).toJSON(), fields: {} } : null,
    };
  }

  async close(): Promise<void> {
    await this.#relayed.close();
    await Promise.all([...this.#clients.values()].map((client) => client[Symbol.asyncDispose]()));
    await this.#server?.[Symbol.asyncDispose]();
  }
}

const addressText = (address: PeerAddress): string =>
  address.relay === undefined ? formatAddress(address) : `${formatAddress(address)} (relay ${address.relay})`;
