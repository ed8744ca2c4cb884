import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createHash, webcrypto, X509Certificate } from 'node:crypto';
import { fingerprintOf } from './allowed-peers.ts';
import { fail } from './errors.ts';
import { isSiteId, siteOfCertificate, type TlsMaterial } from './tls.ts';

/** A center's certificate authority: PEM texts. The key stays at the center. */
export interface Ca {
  cert: string;
  key: string;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const DAY_MS = 24 * 60 * 60 * 1000;
const CA_DAYS = 3650;
const CERTIFICATE_URI = 'cloudap://certificate/';
/** Of a certificate that somebody made by hand, and of one that its node renews by itself. */
const SITE_DAYS = 825;
const ENROLLED_DAYS = 90;
/** Clocks of sites differ: certificates are valid from an hour before they were made. */
const CLOCK_SKEW_MS = 60 * 60 * 1000;
const CA_FILES = { cert: 'ca.pem', key: 'ca.key' } as const;

x509.cryptoProvider.set(webcrypto);

function serialNumber(): string {
  const bytes = Buffer.from(webcrypto.getRandomValues(new Uint8Array(16)));
  bytes[0] = (bytes.readUInt8(0) & 0x3f) | 0x40;
  return bytes.toString('hex');
}

function validity(days: number, nowMs: number): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(nowMs - CLOCK_SKEW_MS), notAfter: new Date(nowMs + days * DAY_MS) };
}

async function pemOfKey(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await webcrypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY');
}

function keyOfPem(pem: string): Promise<webcrypto.CryptoKey> {
  const [der] = x509.PemConverter.decode(pem);
  if (!der) throw fail('LINK_PKI', 'no private key in the PEM text');
  return webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
}

/** A new authority (ECDSA P-256, ten years), in memory. */
export async function generateCa(name = 'CloudAP center', nowMs = Date.now()): Promise<Ca> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: `CN=${name}`,
    ...validity(CA_DAYS, nowMs),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { cert: `${certificate.toString('pem')}\n`, key: `${await pemOfKey(keys.privateKey)}\n` };
}

/** Makes an authority and writes `ca.pem` and `ca.key` (mode 0600) into `dir`; never overwrites. @throws LINK_PKI */
export async function createCa(dir: string, name?: string): Promise<Ca> {
  const ca = await generateCa(name);
  await mkdir(dir, { recursive: true, mode: 0o700 });
  try {
    await writeFile(join(dir, CA_FILES.key), ca.key, { mode: 0o600, flag: 'wx' });
    await writeFile(join(dir, CA_FILES.cert), ca.cert, { mode: 0o600, flag: 'wx' });
  } catch (cause) {
    throw fail('LINK_PKI', `${dir}: ${(cause as Error).message}`, { cause });
  }
  return ca;
}

/** @throws LINK_PKI */
export async function loadCa(dir: string): Promise<Ca> {
  try {
    return {
      cert: await readFile(join(dir, CA_FILES.cert), 'utf8'),
      key: await readFile(join(dir, CA_FILES.key), 'utf8'),
    };
  } catch (cause) {
    throw fail('LINK_PKI', `${dir}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * A site's certificate, for both roles of TLS, with the site id in its subject alternative name as `cloudap://site/<id>`, and its
 * serial number as `cloudap://certificate/<serial>`: what NATS knows it by (`natsUserOf`).
 * @throws LINK_PKI if the id is not 1..63 of a-z 0-9 - (or begins or ends with -)
 */
export async function issueSiteCertificate(ca: Ca, siteId: string, nowMs = Date.now()): Promise<TlsMaterial> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const cert = await sign(ca, siteId, keys.publicKey, validity(SITE_DAYS, nowMs));
  return { ca: ca.cert, cert, key: `${await pemOfKey(keys.privateKey)}\n` };
}

async function sign(
  ca: Ca,
  siteId: string,
  publicKey: webcrypto.CryptoKey | x509.PublicKey,
  valid: { notBefore: Date; notAfter: Date },
): Promise<string> {
  if (!isSiteId(siteId)) throw fail('LINK_PKI', `${JSON.stringify(siteId)} is not a site id`);
  const issuer = new x509.X509Certificate(ca.cert);
  const serial = serialNumber();
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial,
    subject: `CN=${siteId}`,
    issuer: issuer.subject,
    ...valid,
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: await keyOfPem(ca.key),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([
        x509.ExtendedKeyUsage.serverAuth,
        x509.ExtendedKeyUsage.clientAuth,
      ]),
      new x509.SubjectAlternativeNameExtension([
        { type: 'url', value: `cloudap://site/${siteId}` },
        { type: 'url', value: `${CERTIFICATE_URI}${serial}` },
      ]),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return `${certificate.toString('pem')}\n`;
}

/** A new key, and the request (PKCS #10) to sign it: the key never leaves the machine that it is for. PEM texts. */
export async function requestCertificate(siteId: string): Promise<{ request: string; key: string }> {
  if (!isSiteId(siteId)) throw fail('LINK_PKI', `${JSON.stringify(siteId)} is not a site id`);
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: `CN=${siteId}`,
    keys,
    signingAlgorithm: ALGORITHM,
  });
  return { request: `${request.toString('pem')}\n`, key: `${await pemOfKey(keys.privateKey)}\n` };
}

/**
 * Signs a request, once it has proven that its sender has the key. What else it asks for is left aside: the certificate is as
 * `issueSiteCertificate` makes it. `publicKey`: SHA-256 of the key (SPKI), hexadecimal.
 * @throws LINK_PKI
 */
export async function signRequest(
  ca: Ca,
  siteId: string,
  requestPem: string,
  nowMs = Date.now(),
): Promise<{ cert: string; publicKey: string }> {
  let publicKey: x509.PublicKey;
  try {
    const request = new x509.Pkcs10CertificateRequest(requestPem);
    publicKey = request.publicKey;
    const algorithm = publicKey.algorithm as { name: string; namedCurve?: string };
    if (algorithm.name !== ALGORITHM.name || algorithm.namedCurve !== ALGORITHM.namedCurve)
      throw new Error('the key is not ECDSA P-256');
    if (request.subject !== `CN=${siteId}`) throw new Error(`it is for ${request.subject.slice(0, 80)}`);
    if (!(await request.verify())) throw new Error('its signature is wrong');
  } catch (cause) {
    throw fail('LINK_PKI', `certificate request: ${(cause as Error).message}`, { cause });
  }
  const hash = createHash('sha256').update(Buffer.from(publicKey.rawData)).digest('hex');
  return { cert: await sign(ca, siteId, publicKey, validity(ENROLLED_DAYS, nowMs)), publicKey: hash };
}

export interface CertificateFacts {
  readonly site: string;
  readonly serial: string;
  /** SHA-256 of its DER, hexadecimal. */
  readonly fingerprint: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** @throws LINK_PKI, LINK_PEER_IDENTITY */
export function certificateFacts(pem: string): CertificateFacts {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(pem);
  } catch (cause) {
    throw fail('LINK_PKI', 'no certificate in the PEM text', { cause });
  }
  return {
    site: siteOfCertificate({ subjectaltname: certificate.subjectAltName }),
    serial: certificate.serialNumber.toLowerCase(),
    fingerprint: fingerprintOf(certificate.fingerprint256),
    notBeforeMs: Date.parse(certificate.validFrom),
    notAfterMs: Date.parse(certificate.validTo),
  };
}

/** How NATS knows the owner of a certificate (`verify_and_map`): by the certificate, so that an older one of the same node is nobody's. */
export const natsUserOf = (serial: string): string => `${CERTIFICATE_URI}${serial}`;

const SITE_FILES = { ca: 'ca.pem', cert: 'site.pem', key: 'site.key' } as const;

/** Writes `ca.pem`, `site.pem` and `site.key` (mode 0600) into `dir`, over older ones. @throws LINK_PKI */
export async function writeSiteCertificate(dir: string, material: TlsMaterial): Promise<void> {
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    for (const part of ['ca', 'cert', 'key'] as const) {
      const path = join(dir, SITE_FILES[part]);
      await writeFile(path, material[part], { mode: 0o600 });
      await chmod(path, 0o600);
    }
  } catch (cause) {
    throw fail('LINK_PKI', `${dir}: ${(cause as Error).message}`, { cause });
  }
}

/** Reads what writeSiteCertificate wrote. @throws LINK_PKI */
export async function loadSiteCertificate(dir: string): Promise<TlsMaterial> {
  try {
    const [ca, cert, key] = await Promise.all(
      [SITE_FILES.ca, SITE_FILES.cert, SITE_FILES.key].map((name) => readFile(join(dir, name), 'utf8')),
    );
    return { ca: ca ?? '', cert: cert ?? '', key: key ?? '' };
  } catch (cause) {
    throw fail('LINK_PKI', `${dir}: ${(cause as Error).message}`, { cause });
  }
}
