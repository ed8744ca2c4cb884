import 'reflect-metadata';
import * as x509 from '@peculiar/x509';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { webcrypto } from 'node:crypto';
import { fail } from './errors.ts';
import { isSiteId, type TlsMaterial } from './tls.ts';

/** A center's certificate authority: PEM texts. The key stays at the center. */
export interface Ca {
  cert: string;
  key: string;
}

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const DAY_MS = 24 * 60 * 60 * 1000;
const CA_DAYS = 3650;
const SITE_DAYS = 825;
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
 * A site's certificate, for both roles of TLS, with the site id in its subject alternative name as `cloudap://site/<id>`.
 * @throws LINK_PKI if the id is not 1..63 of a-z 0-9 - (or begins or ends with -)
 */
export async function issueSiteCertificate(ca: Ca, siteId: string, nowMs = Date.now()): Promise<TlsMaterial> {
  if (!isSiteId(siteId)) throw fail('LINK_PKI', `${JSON.stringify(siteId)} is not a site id`);
  const issuer = new x509.X509Certificate(ca.cert);
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: `CN=${siteId}`,
    issuer: issuer.subject,
    ...validity(SITE_DAYS, nowMs),
    signingAlgorithm: ALGORITHM,
    publicKey: keys.publicKey,
    signingKey: await keyOfPem(ca.key),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([
        x509.ExtendedKeyUsage.serverAuth,
        x509.ExtendedKeyUsage.clientAuth,
      ]),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: `cloudap://site/${siteId}` }]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return {
    ca: ca.cert,
    cert: `${certificate.toString('pem')}\n`,
    key: `${await pemOfKey(keys.privateKey)}\n`,
  };
}

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
