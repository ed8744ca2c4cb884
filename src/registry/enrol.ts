import { X509Certificate } from 'node:crypto';
import { request as httpsRequest } from 'node:https';
import * as z from 'zod';
import { CloudapError } from '../base/errors.ts';
import { fingerprintOf } from '../link/allowed-peers.ts';
import { requestCertificate } from '../link/pki.ts';
import { identityCheck, type TlsMaterial } from '../link/tls.ts';
import { ENROL_BODY_MAX_BYTES, ENROL_TIMEOUT_MS } from './constants.ts';
import { failRegistry } from './errors.ts';
import { caAnswerSchema, enrolAnswerSchema, type EnrolAnswer } from './messages.ts';
import type { Token } from './token.ts';

export interface Address {
  readonly host: string;
  readonly port: number;
}

export interface Enrolled {
  readonly material: TlsMaterial;
  readonly answer: EnrolAnswer;
}

/**
 * Enrols this machine: a key that never leaves it, and a certificate for it from the center that the token names. Whoever answers
 * must have a certificate of the CA whose fingerprint is in the token.
 * @throws ENROL_*, and what the center answers
 */
export async function enrol(token: Token, address: Address): Promise<Enrolled> {
  const { ca } = await call(caAnswerSchema, { address, path: '/v1/ca', tls: { rejectUnauthorized: false } });
  if (fingerprintOfPem(ca) !== token.ca) throw failRegistry('ENROL_WRONG_CENTER', formatHost(address));
  const { request, key } = await requestCertificate(token.node);
  const answer = await call(enrolAnswerSchema, {
    address,
    path: '/v1/enrol',
    tls: pinned(ca, token.center),
    body: { id: token.id, secret: token.secret, request },
  });
  return { material: { ca, cert: answer.cert, key }, answer };
}

/** A new key and certificate for a node whose present one is good. @throws ENROL_*, NODE_REVOKED, and what the center answers */
export async function renew(
  node: string,
  present: TlsMaterial,
  center: { id: string; address: Address },
): Promise<Enrolled> {
  const { request, key } = await requestCertificate(node);
  const { ca, cert } = present;
  const answer = await call(enrolAnswerSchema, {
    address: center.address,
    path: '/v1/renew',
    tls: { ...pinned(ca, center.id), cert, key: present.key },
    body: { request },
  });
  return { material: { ca, cert: answer.cert, key }, answer };
}

const formatHost = ({ host, port }: Address): string => `${host}:${port}`;

function fingerprintOfPem(pem: string): string {
  try {
    return fingerprintOf(new X509Certificate(pem).fingerprint256);
  } catch (cause) {
    throw failRegistry('ENROL_BAD_ANSWER', 'no certificate', { cause });
  }
}

function pinned(ca: string, center: string): object {
  return {
    ca,
    checkServerIdentity: identityCheck(center),
  };
}

const errorAnswerSchema = z.object({
  code: z.string().max(64),
  message: z.string().max(4_096),
  remedy: z.string().max(1_024),
});

async function call<S extends z.ZodType>(
  schema: S,
  options: { address: Address; path: string; tls: object; body?: object },
): Promise<z.output<S>> {
  const { status, text } = await exchange(options).catch((cause: unknown) => {
    if (cause instanceof CloudapError) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    const why = `${formatHost(options.address)}: ${message}`;
    const pinFailed = /CERT|SIGNED|ISSUER|SIGNATURE|LINK_PEER/.test(code ?? '');
    throw failRegistry(pinFailed ? 'ENROL_WRONG_CENTER' : 'ENROL_UNREACHABLE', why, { cause });
  });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw failRegistry('ENROL_BAD_ANSWER', `status ${status}`, { cause });
  }
  if (status !== 200) {
    const error = errorAnswerSchema.safeParse(json);
    if (!error.success) throw failRegistry('ENROL_BAD_ANSWER', `status ${status}`);
    throw new CloudapError(error.data.code, error.data.message, error.data.remedy);
  }
  const checked = schema.safeParse(json);
  if (checked.success) return checked.data;
  throw failRegistry('ENROL_BAD_ANSWER', checked.error.issues[0]?.message ?? '');
}

function exchange({
  address,
  path,
  tls,
  body,
}: {
  address: Address;
  path: string;
  tls: object;
  body?: object;
}): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const asked = httpsRequest(
      {
        ...address,
        path,
        method: body ? 'POST' : 'GET',
        agent: false,
        minVersion: 'TLSv1.3',
        headers: { connection: 'close', ...(body ? { 'content-type': 'application/json' } : {}) },
        signal: AbortSignal.timeout(ENROL_TIMEOUT_MS),
        ...tls,
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (piece: string) => {
          text += piece;
          if (text.length > ENROL_BODY_MAX_BYTES)
            response.destroy(failRegistry('ENROL_BAD_ANSWER', 'it is too long'));
        });
        response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
        response.on('error', reject);
      },
    );
    asked.on('error', reject);
    asked.end(body ? JSON.stringify(body) : undefined);
  });
}
