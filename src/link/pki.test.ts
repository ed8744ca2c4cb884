import { X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { errorCode } from '../base/errors.ts';
import {
  createCa,
  generateCa,
  issueSiteCertificate,
  loadCa,
  loadSiteCertificate,
  natsUserOf,
  writeSiteCertificate,
} from './pki.ts';
import { checkPeer, siteIdOf, siteOfCertificate } from './tls.ts';

const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);
const dirs: string[] = [];
async function tempDir(): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'pki-'));
  dirs.push(dir);
  return dir;
}
afterEach(async () => {
  for (const dir of dirs.splice(0)) await rm(dir, { recursive: true });
});

test('a site certificate is the CA’s, names its site, and is for both roles of TLS', async () => {
  const ca = await generateCa();
  const site = await issueSiteCertificate(ca, 'ap-1');
  const certificate = new X509Certificate(site.cert);
  const issuer = new X509Certificate(ca.cert);
  expect(certificate.verify(issuer.publicKey)).toBe(true);
  expect(certificate.checkIssued(issuer)).toBe(true);
  expect([issuer.ca, certificate.ca]).toEqual([true, false]);
  expect(certificate.subjectAltName).toBe(
    `URI:cloudap://site/ap-1, URI:${natsUserOf(certificate.serialNumber.toLowerCase())}`,
  );
  expect(certificate.publicKey.asymmetricKeyDetails).toMatchObject({ namedCurve: 'prime256v1' });
  expect(certificate.keyUsage).toEqual(['1.3.6.1.5.5.7.3.1', '1.3.6.1.5.5.7.3.2']);
  expect(siteIdOf(site.cert)).toBe('ap-1');
});

test('files are kept with mode 0600, read back, and a CA is never overwritten', async () => {
  const dir = await tempDir();
  const ca = await createCa(join(dir, 'ca'));
  await expect(loadCa(join(dir, 'ca'))).resolves.toEqual(ca);
  const site = await issueSiteCertificate(ca, 'center');
  await writeSiteCertificate(join(dir, 'site'), site);
  await writeSiteCertificate(join(dir, 'site'), site);
  await expect(loadSiteCertificate(join(dir, 'site'))).resolves.toEqual(site);
  for (const file of ['ca/ca.pem', 'ca/ca.key', 'site/ca.pem', 'site/site.pem', 'site/site.key']) {
    expect((await stat(join(dir, file))).mode & 0o777).toBe(0o600);
  }
  expect(await codeOf(createCa(join(dir, 'ca')))).toBe('LINK_PKI');
  expect(await readFile(join(dir, 'ca/ca.key'), 'utf8')).toBe(ca.key);
  expect(await codeOf(loadCa(join(dir, 'none')))).toBe('LINK_PKI');
});

test.each(['', 'A', '-a', 'a-', 'a/b', 'a, URI:cloudap://site/b', 'x'.repeat(64)])(
  '%j is no site id',
  async (id) => {
    expect(await codeOf(issueSiteCertificate(await generateCa(), id))).toBe('LINK_PKI');
  },
);

test.each([
  [undefined],
  [''],
  ['DNS:center'],
  ['URI:cloudap://site/'],
  ['URI:cloudap://site/A'],
  ['URI:cloudap://site/a, URI:cloudap://site/b'],
  ['URI:"cloudap://site/a"'],
  ['DNS:URI:cloudap://site/a'],
])('a certificate with %j names no site', (subjectaltname) => {
  let code = 'none';
  try {
    siteOfCertificate({ subjectaltname });
  } catch (error) {
    code = errorCode(error);
  }
  expect(code).toBe('LINK_PEER_IDENTITY');
});

test('another site than the expected one is refused', () => {
  expect(() => checkPeer({ subjectaltname: 'URI:cloudap://site/a' }, 'a')).not.toThrow();
  expect(() => checkPeer({ subjectaltname: 'URI:cloudap://site/a' }, 'b')).toThrow(/site a, expected was b/);
});
