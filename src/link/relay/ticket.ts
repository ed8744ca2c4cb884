/**
 * A ticket lets two connections meet in a gateway: it is the route that both name in their preambles, and an empty file
 * beside the routes' sockets, made by the relay and removed by the gateway when they have met. Who shows one
 * can have no more than the ciphertext of a connection that ends when it does not pass the other side's TLS.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';

const TICKET = /^relay-[0-9a-f]{32}$/;

export const newTicket = (): string => `relay-${randomBytes(16).toString('hex')}`;
export const isTicket = (route: string): boolean => TICKET.test(route);
export const ticketFile = (socketDir: string, ticket: string): string => join(socketDir, `${ticket}.ticket`);
export const isTicketFile = (name: string): boolean =>
  name.endsWith('.ticket') && isTicket(name.slice(0, -'.ticket'.length));
