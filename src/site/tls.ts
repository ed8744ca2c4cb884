import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { asCloudapError } from '../base/errors.ts';
import { siteOfCertificate, type TlsMaterial } from '../link/tls.ts';
import { failSite } from './errors.ts';

/**
 * Reads a site's certificate, key and CA, and sees whether they belong together and to this site: a wrong file would
 * otherwise show only as another site's refusal.
 * @throws SITE_TLS
 */
export async function loadTls(
  paths: { ca: string; cert: string; key: string; peers?: string | undefined },
  siteId: string,
  nowMs = Date.now(),
): Promise<TlsMaterial> {
  const [ca, cert, key] = await Promise.all([
    read('tls.ca', paths.ca),
    read('tls.cert', paths.cert),
    read('tls.key', paths.key),
  ]);
  const authority = parse('tls.ca', paths.ca, () => new X509Certificate(ca));
  const own = parse('tls.cert', paths.cert, () => new X509Certificate(cert));
  const secret = parse('tls.key', paths.key, () => createPrivateKey(key));
  if (!own.checkPrivateKey(secret))
    throw failSite('SITE_TLS', `tls.key: ${paths.key} is not the key of ${paths.cert}`);
  if (!own.verify(authority.publicKey))
    throw failSite('SITE_TLS', `tls.cert: ${paths.cert} was not issued by ${paths.ca}`);
  if (Date.parse(own.validTo) < nowMs)
    throw failSite('SITE_TLS', `tls.cert: ${paths.cert} ended on ${own.validTo}`);
  const named = parse('tls.cert', paths.cert, () =>
    siteOfCertificate({ subjectaltname: own.subjectAltName }),
  );
  if (named !== siteId)
    throw failSite('SITE_TLS', `tls.cert: ${paths.cert} is of site ${named}, this is ${siteId}`);
  return { ca, cert, key, peers: paths.peers };
}

async function read(key: string, path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw failSite('SITE_TLS', `${key}: ${(error as Error).message}`, { cause: error });
  }
}

function parse<T>(key: string, path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw failSite('SITE_TLS', `${key}: ${path}: ${asCloudapError(error).message}`, { cause: error });
  }
}

/** The same for a process that reads the files itself. */
export function moverTls(config: { tls: { ca: string; cert: string; key: string }; peersFile?: string }): {
  caPath: string;
  certPath: string;
  keyPath: string;
  peersPath?: string;
} {
  const { ca, cert, key } = config.tls;
  return {
    caPath: ca,
    certPath: cert,
    keyPath: key,
    ...(config.peersFile === undefined ? {} : { peersPath: config.peersFile }),
  };
}
