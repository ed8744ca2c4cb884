/**
 * Subjects of the control plane. Their tokens are ids (a-z, 0-9, -) or encoded by `token`, so that no value of a peer
 * can widen a subject.
 *
 *   cloudap.v1.host.<host>.<method>      request to the agent of a host
 *   cloudap.v1.site.<site>.<method>      request to the agent of a site (placement within it)
 *   cloudap.v1.center.<method>           request to the center
 *   cloudap.v1.presence.<site>.<device>  stream PRESENCE: what a site says of a device, the latest of each
 *   cloudap.v1.heartbeat.<site>.<host>  not stored: a host lives
 *   cloudap.v1.event.<kind>.<id>         stream EVENTS: what has happened
 *   cloudap.v1.progress.<kind>.<id>      not stored: how long work goes
 */
const ROOT = 'cloudap.v1';

export const hostSubject = (host: string, method: string): string => `${ROOT}.host.${host}.${method}`;
export const siteSubject = (site: string, method: string): string => `${ROOT}.site.${site}.${method}`;
export const centerSubject = (method: string): string => `${ROOT}.center.${method}`;
export const presenceSubject = (site: string, device: string): string =>
  `${ROOT}.presence.${site}.${token(device)}`;
export const heartbeatSubject = (site: string, host: string): string => `${ROOT}.heartbeat.${site}.${host}`;
/** Heartbeats of a site's hosts, or of all. */
export const heartbeatsOf = (site: string | undefined): string => `${ROOT}.heartbeat.${site ?? '*'}.*`;
export const eventSubject = (kind: string, id: string): string => `${ROOT}.event.${kind}.${token(id)}`;
export const progressSubject = (kind: string, id: string): string => `${ROOT}.progress.${kind}.${token(id)}`;

export const ALL_PRESENCE = `${ROOT}.presence.>`;
export const ALL_EVENTS = `${ROOT}.event.>`;

const PLAIN = /^[A-Za-z0-9_-]+$/;

/** Any text as one token of a subject or key of a bucket: as it is where it is plain, else `=` and its bytes in hexadecimal. */
export function token(text: string): string {
  return PLAIN.test(text) ? text : `=${Buffer.from(text, 'utf8').toString('hex')}`;
}

/** The text of a token. */
export function untoken(text: string): string {
  return text.startsWith('=') ? Buffer.from(text.slice(1), 'hex').toString('utf8') : text;
}
