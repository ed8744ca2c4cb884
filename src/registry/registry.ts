import { createHash, randomBytes, randomUUID, timingSafeEqual, X509Certificate } from 'node:crypto';
import type { Logger } from 'pino';
import { asCloudapError, errorCode } from '../base/errors.ts';
import { certificateFacts, signRequest, type Ca, type CertificateFacts } from '../link/pki.ts';
import { fingerprintOf } from '../link/allowed-peers.ts';
import type { Enrolment, NodeRecord } from '../control/messages.ts';
import type { ControlPlane } from '../control/plane.ts';
import { TOKEN_TTL_MAX_MS, TOKENS_MAX } from './constants.ts';
import { failRegistry } from './errors.ts';
import { encodeToken } from './token.ts';

export interface RegistryOptions {
  readonly plane: ControlPlane;
  readonly ca: Ca;
  /** The center's node id. */
  readonly center: string;
  readonly log: Logger;
  /** Host:port of the enrolment service, for tokens. */
  readonly address: string;
  /** Who may use the control plane has changed; returns when that holds. */
  readonly apply: (nodes: readonly NodeRecord[]) => Promise<void>;
  readonly now?: () => number;
}

export interface TokenRequest {
  readonly node: string;
  readonly role: 'agent' | 'host';
  readonly site: string;
  readonly ttlMs: number;
}

/** A token as it is listed: without what lets in. */
export type TokenView = Omit<Enrolment, 'secretHash' | 'usedBy' | 'version'>;

const sha256 = (data: string): Buffer => createHash('sha256').update(data).digest();

/** The center's registry of nodes: lets them in by one-time tokens, renews their certificates, and shuts them out. */
export class Registry {
  readonly #options: RegistryOptions;
  readonly #now: () => number;
  readonly #caFingerprint: string;
  /** Changes of nodes one after another, so that the last to apply is the last to have changed. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#caFingerprint = fingerprintOf(new X509Certificate(options.ca.cert).fingerprint256);
  }

  get caCertificate(): string {
    return this.#options.ca.cert;
  }

  async nodes(): Promise<NodeRecord[]> {
    return [...(await this.#options.plane.buckets.nodes.all()).values()];
  }

  /** A new token, as the line that is given to the node's administrator. @throws NODE_IS_CENTER, ENROL_TOO_MANY */
  async createToken(wanted: TokenRequest): Promise<{ token: string; view: TokenView }> {
    const { center, plane, address } = this.#options;
    if (wanted.node === center || (wanted.role === 'agent' && wanted.site === center))
      throw failRegistry('NODE_IS_CENTER', wanted.node);
    const nowMs = this.#now();
    await this.#makeRoom(nowMs);
    const id = randomBytes(8).toString('hex');
    const secret = randomBytes(32).toString('base64url');
    const { node, role, site, ttlMs } = wanted;
    const enrolment: Enrolment = {
      version: 1,
      id,
      node,
      role,
      site,
      secretHash: sha256(secret).toString('hex'),
      createdAtMs: nowMs,
      expiresAtMs: nowMs + Math.min(ttlMs, TOKEN_TTL_MAX_MS),
      usedAtMs: null,
      usedBy: null,
    };
    await plane.buckets.enrolments.create(id, enrolment);
    const token = encodeToken({
      v: 1,
      id,
      secret,
      node,
      role,
      site,
      center,
      address,
      ca: this.#caFingerprint,
    });
    return { token, view: viewToken(enrolment) };
  }

  /** Tokens that expired go; used ones stay until then, so that using them again is told from a token that never was. */
  async #makeRoom(nowMs: number): Promise<void> {
    const { enrolments } = this.#options.plane.buckets;
    const all = await enrolments.all();
    if (all.size < TOKENS_MAX) return;
    const gone = [...all.values()].filter(({ expiresAtMs }) => expiresAtMs < nowMs);
    await Promise.all(gone.map(({ id }) => enrolments.remove(id)));
    if (all.size - gone.length >= TOKENS_MAX) throw failRegistry('ENROL_TOO_MANY');
  }

  async tokens(): Promise<TokenView[]> {
    const all = await this.#options.plane.buckets.enrolments.all();
    return [...all.values()].map(viewToken).toSorted((a, b) => a.createdAtMs - b.createdAtMs);
  }

  /** @throws ENROL_TOKEN_UNKNOWN */
  async removeToken(id: string): Promise<void> {
    const { enrolments } = this.#options.plane.buckets;
    if (!(await enrolments.get(id))) throw failRegistry('ENROL_TOKEN_UNKNOWN', id);
    await enrolments.remove(id);
  }

  /**
   * Signs the request of a node that has a token. The token is used up first: of two that come at once one gets it. The same key
   * again gets a certificate again, as the first answer may have been lost.
   * @throws ENROL_TOKEN_UNKNOWN, ENROL_TOKEN_EXPIRED, ENROL_TOKEN_USED, LINK_PKI
   */
  async enrol(
    token: { id: string; secret: string },
    request: string,
  ): Promise<{ cert: string; node: NodeRecord }> {
    const { plane, ca } = this.#options;
    const found = await plane.buckets.enrolments.get(token.id);
    if (!found || !timingSafeEqual(sha256(token.secret), Buffer.from(found.value.secretHash, 'hex')))
      throw failRegistry('ENROL_TOKEN_UNKNOWN', token.id);
    const { value: enrolment, revision } = found;
    const nowMs = this.#now();
    if (nowMs > enrolment.expiresAtMs) throw failRegistry('ENROL_TOKEN_EXPIRED', token.id);
    const { cert, publicKey } = await signRequest(ca, enrolment.node, request, nowMs);
    if (enrolment.usedBy === null)
      try {
        const used = { ...enrolment, usedAtMs: nowMs, usedBy: publicKey };
        await plane.buckets.enrolments.update(token.id, used, revision);
      } catch (error) {
        if (errorCode(error) === 'CONTROL_CONFLICT') throw failRegistry('ENROL_TOKEN_USED', token.id);
        throw error;
      }
    else if (enrolment.usedBy !== publicKey) throw failRegistry('ENROL_TOKEN_USED', token.id);
    const { node, role, site } = enrolment;
    await this.#ensureSite(site);
    const record = await this.#change(node, () => ({
      version: 1,
      node,
      role,
      site,
      certificates: [listed(certificateFacts(cert))],
      enrolledAtMs: nowMs,
      revokedAtMs: null,
    }));
    await this.#event(node, 'enrolled', { role, site });
    return { cert, node: record };
  }

  /**
   * A new certificate for a node that shows one which is good. Both are good until the node comes with the new one again.
   * @throws NODE_REVOKED, LINK_PKI
   */
  async renew(shown: CertificateFacts, request: string): Promise<{ cert: string; node: NodeRecord }> {
    const { plane, ca } = this.#options;
    const { cert } = await signRequest(ca, shown.site, request, this.#now());
    const found = await plane.buckets.nodes.get(shown.site);
    const node = found?.value;
    if (!node || !isGood(node, shown)) throw failRegistry('NODE_REVOKED', shown.site);
    const record = await this.#change(node.node, (before) => {
      const present = before?.certificates.find(({ serial }) => serial === shown.serial);
      if (!before || before.revokedAtMs !== null || !present) throw failRegistry('NODE_REVOKED', shown.site);
      return { ...before, certificates: [listed(certificateFacts(cert)), present] };
    });
    await this.#event(node.node, 'renewed', {});
    return { cert, node: record };
  }

  /** Shuts a node, or all nodes of a site, out of both planes at once. @throws NODE_UNKNOWN, NODE_IS_CENTER */
  async revoke(what: { node: string } | { site: string }): Promise<NodeRecord[]> {
    const id = 'node' in what ? what.node : what.site;
    if (id === this.#options.center) throw failRegistry('NODE_IS_CENTER', id);
    const nodes = (await this.nodes()).filter((one) => ('node' in what ? one.node === id : one.site === id));
    if (nodes.length === 0) throw failRegistry('NODE_UNKNOWN', id);
    const revoked: NodeRecord[] = [];
    for (const { node } of nodes) {
      revoked.push(
        await this.#change(node, (before) => {
          if (!before) throw failRegistry('NODE_UNKNOWN', node);
          return { ...before, certificates: [], revokedAtMs: before.revokedAtMs ?? this.#now() };
        }),
      );
      await this.#event(node, 'revoked', {});
    }
    return revoked;
  }

  /** The center's own certificate is good, and what is so in the records holds: after a start, once. */
  async start(own: CertificateFacts): Promise<void> {
    const { center, plane } = this.#options;
    const before = (await plane.buckets.nodes.get(center))?.value;
    const enrolledAtMs = before?.enrolledAtMs ?? this.#now();
    await this.#change(center, () => ({
      version: 1,
      node: center,
      role: 'center',
      site: center,
      certificates: [listed(own)],
      enrolledAtMs,
      revokedAtMs: null,
    }));
  }

  /** Notes that somebody was not let in. */
  refused(error: unknown, from: string): void {
    const { code, message } = asCloudapError(error);
    this.#options.log.warn({ code, err: message, from }, 'enrolment refused');
  }

  async #change(node: string, change: (before: NodeRecord | undefined) => NodeRecord): Promise<NodeRecord> {
    const before = this.#turn.catch(() => {});
    const turn = (async () => {
      await before;
      const { nodes } = this.#options.plane.buckets;
      const record = change((await nodes.get(node))?.value);
      await nodes.put(node, record);
      await this.#options.apply(await this.nodes());
      return record;
    })();
    this.#turn = turn;
    return turn;
  }

  async #ensureSite(site: string): Promise<void> {
    const { plane } = this.#options;
    try {
      await plane.buckets.sites.create(site, { version: 1, site, tier: 'ap', createdAtMs: this.#now() });
    } catch (error) {
      if (errorCode(error) !== 'CONTROL_CONFLICT') throw error;
    }
  }

  async #event(node: string, what: string, data: Record<string, unknown>): Promise<void> {
    const { plane, log } = this.#options;
    log.info({ node, ...data }, `node ${what}`);
    await plane
      .publishEvent({
        version: 1,
        id: randomUUID(),
        kind: 'node',
        subject: node,
        what,
        atMs: this.#now(),
        data,
      })
      .catch((error: unknown) => log.warn({ err: asCloudapError(error).message }, 'event'));
  }
}

const isGood = (
  { revokedAtMs, certificates }: NodeRecord,
  { serial, fingerprint }: CertificateFacts,
): boolean =>
  revokedAtMs === null &&
  certificates.some((one) => one.serial === serial && one.fingerprint === fingerprint);

const listed = ({
  serial,
  fingerprint,
  notAfterMs,
}: CertificateFacts): NodeRecord['certificates'][number] => ({
  serial,
  fingerprint,
  notAfterMs,
});

function viewToken({ id, node, role, site, createdAtMs, expiresAtMs, usedAtMs }: Enrolment): TokenView {
  return { id, node, role, site, createdAtMs, expiresAtMs, usedAtMs };
}
