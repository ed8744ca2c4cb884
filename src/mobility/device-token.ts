import { createPrivateKey, X509Certificate } from 'node:crypto';
import { decodeProtectedHeader, jwtVerify, SignJWT } from 'jose';
import { deviceIdSchema } from '../control/messages.ts';
import { siteOfCertificate, type TlsMaterial } from '../link/tls.ts';
import { failMobility } from './errors.ts';

const AUDIENCE = 'cloudap-presence';

/**
 * What a device shows at a site's portal: who it is, signed by the center with its own certificate, so that a site that is cut off
 * from the center can check it with the CA alone.
 */
export async function signDeviceToken(
  center: TlsMaterial,
  device: string,
  expiresAtMs: number,
): Promise<string> {
  const der = new X509Certificate(center.cert).raw.toString('base64');
  return new SignJWT({})
    .setProtectedHeader({ alg: 'ES256', x5c: [der] })
    .setSubject(device)
    .setAudience(AUDIENCE)
    .setIssuedAt()
    .setExpirationTime(Math.floor(expiresAtMs / 1000))
    .sign(createPrivateKey(center.key));
}

/** @returns the device. @throws PRESENCE_TOKEN */
export async function verifyDeviceToken(
  token: string,
  trust: { ca: string; center: string },
  nowMs = Date.now(),
): Promise<string> {
  try {
    const [own, ...more] = decodeProtectedHeader(token).x5c ?? [];
    if (own === undefined || more.length > 0) throw new Error('no certificate');
    const certificate = new X509Certificate(Buffer.from(own, 'base64'));
    const ca = new X509Certificate(trust.ca);
    if (!certificate.checkIssued(ca) || !certificate.verify(ca.publicKey)) throw new Error('another CA');
    if (Date.parse(certificate.validTo) < nowMs) throw new Error('the certificate has ended');
    if (siteOfCertificate({ subjectaltname: certificate.subjectAltName }) !== trust.center)
      throw new Error('not the center’s');
    const { payload } = await jwtVerify(token, certificate.publicKey, {
      algorithms: ['ES256'],
      audience: AUDIENCE,
      requiredClaims: ['sub', 'exp'],
      currentDate: new Date(nowMs),
    });
    return deviceIdSchema.parse(payload.sub);
  } catch (cause) {
    throw failMobility('PRESENCE_TOKEN', (cause as Error).message.slice(0, 200), { cause });
  }
}
