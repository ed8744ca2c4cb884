/**
 * Two sites that cannot reach each other meet in the gateway of a third one, the relay, which both can dial:
 *
 *     B                                relay                               A
 *     |  TLS, route `relay`              |                                  |
 *     |  relay.open {route}  ----------> |                                  |   B's process waits behind that route
 *     |                                  | <---- TLS, route `relay`         |   for each connection that A dials:
 *     |                                  | <---- relay.dial {site: B, route}|
 *     |  <-------- relay.call {ticket}   |  ---- {ticket} ----------------> |
 *     |  preamble: ticket  ------------> | <---------------- preamble: ticket
 *     |  <------------------- bytes, both ways, spliced ------------------> |
 *     |  <==================== TLS 1.3 between A and B ===================> |
 *
 * Whose route it is says B's certificate, never a message. The relay sees ciphertext only; TLS between A and B checks both.
 */
import * as z from 'zod';
import { isSiteId } from '../tls.ts';
import { isTicket } from './ticket.ts';

/** The relay's own route at its gateway. */
export const ROUTE_RELAY = 'relay';

const route = z.string().regex(/^[a-z0-9-]{1,64}$/);
export const openSchema = z.strictObject({ route });
export const dialSchema = z.strictObject({ site: z.string().refine(isSiteId), route });
export const ticketSchema = z.strictObject({ ticket: z.string().refine(isTicket) });
