import { readFile, rename, writeFile } from 'node:fs/promises';
import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import { certificateFacts, issueSiteCertificate, type Ca } from '../link/pki.ts';
import type { TlsMaterial } from '../link/tls.ts';
import { RENEW_AFTER, RENEWAL_LOOK_MS } from './constants.ts';
import { renew, type Address } from './enrol.ts';

export interface TlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export interface RenewalOptions {
  readonly node: string;
  readonly files: TlsFiles;
  readonly center: { id: string; address: Address };
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** The files hold a new certificate. */
  readonly onRenewed?: (material: TlsMaterial) => void;
  readonly now?: () => number;
}

/** Has the node's certificate renewed in time, again and again until `signal` aborts; what fails is tried again an hour later. */
export async function keepRenewed(options: RenewalOptions): Promise<void> {
  const { node, log, signal } = options;
  while (!signal.aborted) {
    try {
      if (await renewIfDue(options)) log.info({ node }, 'certificate renewed');
    } catch (error) {
      log.warn({ node, err: asCloudapError(error).message }, 'certificate not renewed');
    }
    await sleep(RENEWAL_LOOK_MS, signal).catch(() => {});
  }
}

/** Whether it was time, and it has been renewed. @throws ENROL_*, NODE_REVOKED, LINK_PKI */
export async function renewIfDue(options: RenewalOptions): Promise<boolean> {
  const { node, files, center, onRenewed, now = Date.now } = options;
  const present = await readMaterial(files);
  if (!isDue(present, now())) return false;
  const { material } = await renew(node, present, center);
  await writeMaterial(files, material);
  onRenewed?.(material);
  return true;
}

/** The center has the CA: it renews its own certificate, at its start. @throws LINK_PKI */
export async function renewOwn(
  center: string,
  files: TlsFiles,
  ca: Ca,
  nowMs = Date.now(),
): Promise<boolean> {
  if (!isDue(await readMaterial(files), nowMs)) return false;
  await writeMaterial(files, await issueSiteCertificate(ca, center, nowMs));
  return true;
}

function isDue({ cert }: TlsMaterial, nowMs: number): boolean {
  const { notBeforeMs, notAfterMs } = certificateFacts(cert);
  return nowMs > notBeforeMs + RENEW_AFTER * (notAfterMs - notBeforeMs);
}

async function readMaterial({ ca, cert, key }: TlsFiles): Promise<TlsMaterial> {
  const [authority = '', own = '', secret = ''] = await Promise.all(
    [ca, cert, key].map((path) => readFile(path, 'utf8')),
  );
  return { ca: authority, cert: own, key: secret };
}

/** Both are written whole before either takes the place of the old one: a moment, in which who reads them is refused and tries again. */
async function writeMaterial(files: TlsFiles, { cert, key }: TlsMaterial): Promise<void> {
  await writeFile(`${files.key}.new`, key, { mode: 0o600 });
  await writeFile(`${files.cert}.new`, cert, { mode: 0o600 });
  await rename(`${files.key}.new`, files.key);
  await rename(`${files.cert}.new`, files.cert);
}
