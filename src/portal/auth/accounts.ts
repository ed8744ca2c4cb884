import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { errorCode } from '../../base/errors.ts';
import type { Account, Credential, Role } from '../../control/messages.ts';
import type { ControlPlane } from '../../control/plane.ts';
import { token as keyOf } from '../../control/subjects.ts';
import { CREDENTIALS_PER_USER, LOGIN_FAILURES_MAX, LOGIN_WINDOW_MS, SESSION_TTL_MS } from '../constants.ts';
import { failPortal } from '../errors.ts';
import { hashPassword, verifyPassword } from './password.ts';
import { lesser, type Principal } from './principal.ts';

const BEARER = /^cap_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;
const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();

export type CredentialView = Omit<Credential, 'secretHash' | 'version'>;

/** Accounts, sessions and tokens, in the control plane's buckets: they survive the center, and revocation counts from the next request on. */
export class Accounts {
  readonly #plane: ControlPlane;
  readonly #now: () => number;
  /** Wrong passwords by user and by address: when. */
  readonly #failures = new Map<string, number[]>();

  constructor(plane: ControlPlane, now: () => number = Date.now) {
    this.#plane = plane;
    this.#now = now;
  }

  async list(): Promise<Account[]> {
    return [...(await this.#plane.buckets.accounts.all()).values()];
  }

  async get(user: string): Promise<Account | undefined> {
    return (await this.#plane.buckets.accounts.get(keyOf(user)))?.value;
  }

  /** @throws ACCOUNT_EXISTS, AUTH_PASSWORD */
  async create(user: string, role: Role, password: string | null): Promise<Account> {
    const passwordHash = password === null ? null : await hashPassword(password);
    const account: Account = {
      version: 1,
      user,
      role,
      passwordHash,
      disabled: false,
      createdAtMs: this.#now(),
    };
    try {
      await this.#plane.buckets.accounts.create(keyOf(user), account);
    } catch (error) {
      if (errorCode(error) === 'CONTROL_CONFLICT') throw failPortal('ACCOUNT_EXISTS', user);
      throw error;
    }
    return account;
  }

  /** A new password ends the user's sessions. @throws ACCOUNT_UNKNOWN, AUTH_PASSWORD */
  async change(
    user: string,
    { role, password, disabled }: { role?: Role; password?: string; disabled?: boolean },
  ): Promise<Account> {
    const found = await this.#plane.buckets.accounts.get(keyOf(user));
    if (!found) throw failPortal('ACCOUNT_UNKNOWN', user);
    const account: Account = {
      ...found.value,
      ...(role === undefined ? {} : { role }),
      ...(disabled === undefined ? {} : { disabled }),
      ...(password === undefined ? {} : { passwordHash: await hashPassword(password) }),
    };
    await this.#plane.buckets.accounts.update(keyOf(user), account, found.revision);
    if (password !== undefined) await this.#removeAll(user, ({ kind }) => kind === 'session');
    return account;
  }

  /** With its sessions and tokens. @throws ACCOUNT_UNKNOWN */
  async remove(user: string): Promise<void> {
    if (!(await this.get(user))) throw failPortal('ACCOUNT_UNKNOWN', user);
    await this.#plane.buckets.accounts.remove(keyOf(user));
    await this.#removeAll(user, () => true);
  }

  async #removeAll(user: string, which: (one: Credential) => boolean): Promise<void> {
    const { credentials } = this.#plane.buckets;
    const all = [...(await credentials.all()).values()].filter((one) => one.user === user && which(one));
    await Promise.all(all.map(({ id }) => credentials.remove(id)));
  }

  /** @throws AUTH_WRONG, AUTH_LOCKED, PORTAL_BUSY */
  async login(
    user: string,
    password: string,
    address: string,
  ): Promise<{ token: string; view: CredentialView }> {
    const keys = [`user ${user}`, `from ${address}`];
    for (const key of keys) this.#checkLocked(key);
    const account = await this.get(user);
    const right = await verifyPassword(password, account?.passwordHash ?? undefined);
    if (!account || !right || account.disabled) {
      for (const key of keys) this.#failed(key);
      throw failPortal('AUTH_WRONG');
    }
    this.#failures.delete(`user ${user}`);
    return this.issue({ user, role: account.role, kind: 'session', name: 'login', ttlMs: SESSION_TTL_MS });
  }

  #recent(key: string): number[] {
    const nowMs = this.#now();
    return (this.#failures.get(key) ?? []).filter((atMs) => nowMs - atMs < LOGIN_WINDOW_MS);
  }

  #checkLocked(key: string): void {
    if (this.#recent(key).length >= LOGIN_FAILURES_MAX) throw failPortal('AUTH_LOCKED');
  }

  #failed(key: string): void {
    const recent = [...this.#recent(key), this.#now()];
    this.#failures.delete(key);
    this.#failures.set(key, recent);
    // whoever tries many names must not fill the memory
    if (this.#failures.size > 10_000) this.#failures.delete(this.#failures.keys().next().value ?? '');
  }

  /** A new session or token; the text is shown this once. @throws CREDENTIALS_TOO_MANY */
  async issue(wanted: {
    user: string;
    role: Role;
    kind: 'session' | 'token';
    name: string;
    ttlMs: number;
  }): Promise<{ token: string; view: CredentialView }> {
    const { credentials } = this.#plane.buckets;
    const nowMs = this.#now();
    const own = [...(await credentials.all()).values()].filter(({ user }) => user === wanted.user);
    const ended = own.filter(({ expiresAtMs }) => expiresAtMs < nowMs);
    await Promise.all(ended.map(({ id }) => credentials.remove(id)));
    if (own.length - ended.length >= CREDENTIALS_PER_USER)
      throw failPortal('CREDENTIALS_TOO_MANY', wanted.user);
    const id = randomBytes(8).toString('hex');
    const secret = randomBytes(32).toString('base64url');
    const { user, role, kind, name, ttlMs } = wanted;
    const secretHash = sha256(secret).toString('hex');
    const credential: Credential = {
      version: 1,
      id,
      kind,
      user,
      role,
      name,
      secretHash,
      createdAtMs: nowMs,
      expiresAtMs: nowMs + ttlMs,
    };
    await credentials.create(id, credential);
    return { token: `cap_${id}_${secret}`, view: viewCredential(credential) };
  }

  async credentials(user?: string): Promise<CredentialView[]> {
    const all = [...(await this.#plane.buckets.credentials.all()).values()];
    return all.filter((one) => user === undefined || one.user === user).map(viewCredential);
  }

  /** @throws CREDENTIAL_UNKNOWN */
  async revoke(id: string, by: (user: string) => boolean): Promise<void> {
    const found = await this.#plane.buckets.credentials.get(id);
    if (!found || !by(found.value.user)) throw failPortal('CREDENTIAL_UNKNOWN', id);
    await this.#plane.buckets.credentials.remove(id);
  }

  /** Whose `Authorization` header it is. @throws AUTH_REQUIRED, AUTH_EXPIRED */
  async principalOf(header: string | undefined): Promise<Principal> {
    if (header === undefined) throw failPortal('AUTH_REQUIRED');
    const [, id = '', secret = ''] = BEARER.exec(/^Bearer (.{1,200})$/i.exec(header)?.[1] ?? '') ?? [];
    if (id === '') throw failPortal('AUTH_REQUIRED', 'it is no token of ours');
    const credential = (await this.#plane.buckets.credentials.get(id))?.value;
    if (!credential || !timingSafeEqual(sha256(secret), Buffer.from(credential.secretHash, 'hex')))
      throw failPortal('AUTH_EXPIRED');
    if (credential.expiresAtMs < this.#now()) throw failPortal('AUTH_EXPIRED', credential.kind);
    const account = await this.get(credential.user);
    if (!account || account.disabled) throw failPortal('AUTH_EXPIRED', 'the account is gone or disabled');
    const { user, role, kind } = credential;
    // a token never may more than its user may now
    return { user, role: lesser(role, account.role), via: kind, credential: id };
  }
}

function viewCredential({
  id,
  kind,
  user,
  role,
  name,
  createdAtMs,
  expiresAtMs,
}: Credential): CredentialView {
  return { id, kind, user, role, name, createdAtMs, expiresAtMs };
}
