import { readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { dialLink } from '../../link/dial.ts';
import { acceptLink } from '../../link/listener.ts';
import type { LinkSession, MessageHandler } from '../../link/types.ts';
import type { MoverConfig } from './config.ts';

/** How long the movers may take to find each other. */
const CONNECT_TIMEOUT_MS = 30_000;

/** Opens this side's end of the link session; it connects by itself, see LinkSession.opened. */
export async function openLink(
  config: Pick<MoverConfig, 'link' | 'tls' | 'migrationId' | 'peerSiteId' | 'linkLossTimeoutMs'>,
  onMessage: MessageHandler,
): Promise<LinkSession> {
  const { link, tls } = config;
  const [ca, cert, key] = await Promise.all(
    [tls.caPath, tls.certPath, tls.keyPath].map((path) => readFile(path, 'utf8')),
  );
  const options = {
    sessionId: config.migrationId,
    expectedPeer: config.peerSiteId,
    tls: { ca: ca ?? '', cert: cert ?? '', key: key ?? '', peers: tls.peersPath },
    onMessage,
    lossTimeoutMs: config.linkLossTimeoutMs,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
  };
  if (link.mode === 'listen') {
    const relay = link.relay && { address: link.relay, route: basename(link.socketPath, '.sock') };
    return acceptLink({ ...options, socketPath: link.socketPath, relay });
  }
  return dialLink({ ...options, address: link.address, route: link.route });
}
