import type { Role } from '../../control/messages.ts';
import { failPortal } from '../errors.ts';

/** Who asks. */
export interface Principal {
  readonly user: string;
  readonly role: Role;
  readonly via: 'socket' | 'session' | 'token';
  /** Of the session or token. */
  readonly credential: string | null;
}

/** Whoever may open the center's socket is its administrator: files say who that is. */
export const LOCAL: Principal = { user: 'local', role: 'admin', via: 'socket', credential: null };

const RANK: Readonly<Record<Role, number>> = { user: 0, operator: 1, admin: 2 };

export const mayAs = (principal: Principal, role: Role): boolean => RANK[principal.role] >= RANK[role];

export const lesser = (a: Role, b: Role): Role => (RANK[a] <= RANK[b] ? a : b);

/** Operators may everything of everybody, users what is theirs. */
export const owns = (principal: Principal, user: string | null | undefined): boolean =>
  mayAs(principal, 'operator') || (user !== null && user !== undefined && user === principal.user);

/** @throws AUTH_FORBIDDEN */
export function requireRole(principal: Principal, role: Role): void {
  if (!mayAs(principal, role)) throw failPortal('AUTH_FORBIDDEN', `it takes the role ${role}`);
}
