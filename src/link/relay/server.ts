import { readdir, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type * as z from 'zod';
import { abortable, withTimeout } from '../../base/async.ts';
import { RELAY_ROUTES_MAX, RELAY_TICKET_MS, RELAY_TICKETS_MAX, RELAY_WAIT_MS } from '../constants.ts';
import { fail } from '../errors.ts';
import type { RpcHandlers, RpcPeer } from '../rpc.ts';
import { serveRpcTls, type RpcServer } from '../rpc-tls.ts';
import type { TlsMaterial } from '../tls.ts';
import { dialSchema, openSchema, ROUTE_RELAY } from './messages.ts';
import { isTicketFile, newTicket, ticketFile } from './ticket.ts';

export interface RelayOptions {
  /** Folder of the gateway's routes. */
  socketDir: string;
  tls: TlsMaterial;
  /** For the log: `from` was given a way to `route` of `to`. */
  onRelayed?: (from: string, to: string, route: string) => void;
  onRefused?: (error: Error) => void;
}

/** Gives sites of the CA a way to each other through this site's gateway: see messages.ts. It moves no data itself. */
export class RelayServer implements AsyncDisposable {
  readonly #options: RelayOptions;
  /** Site, then route: the connection of who waits there. */
  readonly #routes = new Map<string, Map<string, RpcPeer>>();
  /** Calls that wait until somebody opens a route, by `keyOf`; no more than `#asked` counts. */
  readonly #early = new Map<string, Set<() => void>>();
  /** Calls under way and tickets not used up, by the site that asked. */
  readonly #asked = new Map<string, number>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #server: RpcServer | undefined;

  private constructor(options: RelayOptions) {
    this.#options = options;
  }

  /** @throws LINK_PATH_TOO_LONG, and what listening throws */
  static async listen(options: RelayOptions): Promise<RelayServer> {
    const { socketDir, tls, onRefused } = options;
    for (const name of await readdir(socketDir)) if (isTicketFile(name)) await unlink(join(socketDir, name));
    const relay = new RelayServer(options);
    relay.#server = await serveRpcTls({
      socketPath: join(socketDir, `${ROUTE_RELAY}.sock`),
      tls,
      handlers: (site) => relay.#handlers(site),
      ...(onRefused ? { onRefused } : {}),
    });
    return relay;
  }

  #handlers(from: string): RpcHandlers {
    return {
      'relay.open': (params, { peer }) => this.#open(from, read(openSchema, params).route, peer),
      'relay.dial': async (params, { signal }) => {
        const { site, route } = read(dialSchema, params);
        return { ticket: await this.#dial(from, site, route, signal) };
      },
    };
  }

  /** The newest connection has the route: the one before may be dead without knowing it. */
  #open(site: string, route: string, peer: RpcPeer): Promise<null> {
    const routes = this.#routes.get(site) ?? new Map<string, RpcPeer>();
    if (!routes.has(route) && routes.size >= RELAY_ROUTES_MAX)
      throw fail('LINK_RELAY_BUSY', `${RELAY_ROUTES_MAX} routes`);
    this.#routes.set(site, routes.set(route, peer));
    for (const go of this.#early.get(keyOf(site, route)) ?? []) go();
    void peer.closed.then(() => {
      if (routes.get(route) === peer) routes.delete(route);
      if (routes.size === 0 && this.#routes.get(site) === routes) this.#routes.delete(site);
    });
    return Promise.resolve(null);
  }

  async #dial(from: string, site: string, route: string, signal: AbortSignal): Promise<string> {
    const release = this.#count(from);
    let there: RpcPeer;
    try {
      there = await this.#waiting(site, route, signal);
    } catch (error) {
      release();
      throw error;
    }
    const ticket = newTicket();
    const file = ticketFile(this.#options.socketDir, ticket);
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      release();
      // mostly the gateway has done so
      unlink(file).catch(() => {});
    }, RELAY_TICKET_MS);
    this.#timers.add(timer);
    await writeFile(file, '', { flag: 'wx', mode: 0o600 });
    there.notify('relay.call', { ticket });
    this.#options.onRelayed?.(from, site, route);
    return ticket;
  }

  /** Who waits behind that route; where nobody does yet it is waited for, since both ends are often made at once. */
  async #waiting(site: string, route: string, signal: AbortSignal): Promise<RpcPeer> {
    const find = (): RpcPeer | undefined => this.#routes.get(site)?.get(route);
    const nobody = (): Error =>
      fail('LINK_RELAY_UNKNOWN', `${site}, route ${route}`, { fields: { site, route } });
    const there = find();
    if (there) return there;
    const key = keyOf(site, route);
    const early = this.#early.get(key) ?? new Set<() => void>();
    const opened = Promise.withResolvers<void>();
    this.#early.set(key, early.add(opened.resolve));
    try {
      await abortable(withTimeout(opened.promise, RELAY_WAIT_MS, nobody), signal);
    } finally {
      early.delete(opened.resolve);
      if (early.size === 0) this.#early.delete(key);
    }
    const found = find();
    if (!found) throw nobody();
    return found;
  }

  /** @throws LINK_RELAY_BUSY */
  #count(from: string): () => void {
    const asked = this.#asked.get(from) ?? 0;
    if (asked >= RELAY_TICKETS_MAX) throw fail('LINK_RELAY_BUSY', `${asked} connections`);
    this.#asked.set(from, asked + 1);
    return () => {
      const left = (this.#asked.get(from) ?? 1) - 1;
      if (left > 0) this.#asked.set(from, left);
      else this.#asked.delete(from);
    };
  }

  /** Shows another certificate from the next connection on. */
  renew(tls: TlsMaterial): void {
    this.#server?.renew(tls);
  }

  /** Connections that have met are the gateway's, and go on. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    await this.#server?.[Symbol.asyncDispose]();
  }
}

const keyOf = (site: string, route: string): string => `${site} ${route}`;

/** @throws RPC_BAD_MESSAGE */
function read<S extends z.ZodType>(schema: S, params: unknown): z.output<S> {
  const checked = schema.safeParse(params);
  if (checked.success) return checked.data;
  throw fail('RPC_BAD_MESSAGE', checked.error.issues[0]?.message ?? 'another shape');
}
