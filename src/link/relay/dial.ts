import type { TLSSocket } from 'node:tls';
import { ATTEMPT_TIMEOUT_MS } from '../constants.ts';
import { RpcPeer } from '../rpc.ts';
import { type DialTlsOptions, dialTls, tlsFailure } from '../tls.ts';
import { dialSchema, ROUTE_RELAY, ticketSchema } from './messages.ts';
import { fail } from '../errors.ts';

/**
 * As `dialTls`; an address with `relay` is that site's gateway: it is asked for a ticket to the expected peer, and then passes
 * the bytes on. The TLS of the result ends at the peer, as ever.
 * @throws as `dialTls`; LINK_RELAY_UNKNOWN, LINK_RELAY_BUSY, RPC_*
 */
export async function dialPeer(options: DialTlsOptions): Promise<TLSSocket> {
  const { address, route } = options;
  if ('path' in address || address.relay === undefined) return dialTls(options);
  if (route === undefined) throw fail('LINK_CONFIG', 'a way through a relay needs a route');
  const gateway = { host: address.host, port: address.port };
  const ticket = await askRelay(
    { ...options, address: gateway, expectedPeer: address.relay },
    {
      site: options.expectedPeer,
      route,
    },
  );
  return dialTls({ ...options, address: gateway, route: ticket });
}

async function askRelay(options: DialTlsOptions, want: { site: string; route: string }): Promise<string> {
  const { signal, timeoutMs = ATTEMPT_TIMEOUT_MS } = options;
  const socket = await dialTls({ ...options, route: ROUTE_RELAY });
  const relay = new RpcPeer(socket, { peerSiteId: options.expectedPeer });
  try {
    const answer = await relay.call('relay.dial', dialSchema.parse(want), {
      timeoutMs,
      ...(signal ? { signal } : {}),
    });
    const checked = ticketSchema.safeParse(answer);
    if (!checked.success) throw fail('RPC_BAD_MESSAGE', 'the relay’s answer is no ticket');
    return checked.data.ticket;
  } catch (error) {
    // a refused certificate shows only now: see serveTls
    const cause = (error as Error).cause;
    throw cause instanceof Error ? tlsFailure(cause) : error;
  } finally {
    relay.close();
  }
}
