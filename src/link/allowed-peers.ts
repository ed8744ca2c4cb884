import { readFileSync, statSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import type { TLSSocket } from 'node:tls';
import { PEERS_FILE_MAX_BYTES, PEERS_WATCH_MS } from './constants.ts';
import { fail } from './errors.ts';

/**
 * Who may connect, beyond having a certificate of the CA: a file that the agent keeps current from the center's records, and that every
 * process of a host reads (its agent, and each mover). By node: fingerprints of the certificates that are good now. Who is not
 * in it has been revoked, has renewed its certificate since, or was never enrolled.
 */
export type AllowedPeers = ReadonlyMap<string, readonly string[]>;

/** Node's `AA:BB:…` as hexadecimal digits. */
export const fingerprintOf = (fingerprint256: string): string =>
  fingerprint256.replaceAll(':', '').toLowerCase();

/** Replaces the file, in one step. */
export async function writeAllowedPeers(path: string, peers: AllowedPeers): Promise<void> {
  const text = JSON.stringify({ version: 1, peers: Object.fromEntries(peers) });
  await writeFile(`${path}.new`, text, { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** What of a file that cannot be read, or is none of ours, lets nobody in. */
function readAllowedPeers(path: string): AllowedPeers {
  const found = new Map<string, readonly string[]>();
  try {
    if (statSync(path).size > PEERS_FILE_MAX_BYTES) return found;
    const { version, peers } = JSON.parse(readFileSync(path, 'utf8')) as { version: unknown; peers: object };
    if (version !== 1) return found;
    for (const [node, fingerprints] of Object.entries(peers))
      if (Array.isArray(fingerprints))
        found.set(
          node,
          fingerprints.filter((one) => typeof one === 'string'),
        );
  } catch {
    // lets nobody in
  }
  return found;
}

interface Watched {
  readonly node: string;
  readonly fingerprint: string;
}

/** One file: its present state, and the connections that hang on it. */
class PeersFile {
  readonly #path: string;
  readonly #sockets = new Map<TLSSocket, Watched>();
  #stamp = '';
  #peers: AllowedPeers = new Map();
  #timer: NodeJS.Timeout | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  allows({ node, fingerprint }: Watched): boolean {
    this.#reload();
    return this.#peers.get(node)?.includes(fingerprint) ?? false;
  }

  /** Ends the connection as soon as its peer is no longer allowed. */
  watch(socket: TLSSocket, watched: Watched): void {
    this.#sockets.set(socket, watched);
    this.#timer ??= setInterval(() => this.#look(), PEERS_WATCH_MS).unref();
    socket.once('close', () => {
      this.#sockets.delete(socket);
      if (this.#sockets.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    });
  }

  #look(): void {
    if (!this.#reload()) return;
    for (const [socket, watched] of this.#sockets)
      if (!this.#peers.get(watched.node)?.includes(watched.fingerprint))
        socket.destroy(fail('LINK_PEER_REVOKED', watched.node));
  }

  /** Whether it has changed. */
  #reload(): boolean {
    const stamp = stampOf(this.#path);
    if (stamp === this.#stamp) return false;
    this.#stamp = stamp;
    this.#peers = readAllowedPeers(this.#path);
    return true;
  }
}

function stampOf(path: string): string {
  try {
    const { ino, mtimeNs, size } = statSync(path, { bigint: true });
    return `${ino} ${mtimeNs} ${size}`;
  } catch {
    return 'none';
  }
}

const files = new Map<string, PeersFile>();

/**
 * Lets a connection pass whose TLS handshake is done, for as long as its peer is allowed. Without a file everybody whom the CA
 * knows is.
 * @throws LINK_PEER_REVOKED
 */
export function admitPeer(socket: TLSSocket, node: string, path: string | undefined): void {
  if (path === undefined) return;
  const file = files.get(path) ?? new PeersFile(path);
  files.set(path, file);
  const fingerprint = fingerprintOf(socket.getPeerCertificate().fingerprint256);
  const watched = { node, fingerprint };
  if (!file.allows(watched)) throw fail('LINK_PEER_REVOKED', node, { fields: { site: node } });
  file.watch(socket, watched);
}
