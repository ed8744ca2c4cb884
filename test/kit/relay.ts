import { connect, createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import { dialLink } from '../../src/link/dial.ts';
import { LinkListener } from '../../src/link/listener.ts';
import { issueSiteCertificate } from '../../src/link/pki.ts';
import type { RelayAddress } from '../../src/link/relay/listen.ts';
import { RelayServer } from '../../src/link/relay/server.ts';
import type { TlsMaterial } from '../../src/link/tls.ts';
import type { LinkSession, MessageHandler } from '../../src/link/types.ts';
import { type LinkLab, linkLab } from './link.ts';
import { join } from 'node:path';

/** Sites ap1 and ap2, which cannot reach each other, and the gateway of the center, which relays. */
export interface RelayLab extends LinkLab {
  ap2: TlsMaterial;
  relay: RelayServer;
  /** Through the emulated WAN. */
  relayAddress: RelayAddress;
  /** `from to route` of each way that was given. */
  relayed: string[];
  refused: Error[];
  /** The relay's agent ends, and another one starts; the gateway goes on. */
  restartRelay(): Promise<void>;
}

export async function relayLab(): Promise<RelayLab> {
  const lab = await linkLab({ rttMs: 2 });
  const relayed: string[] = [];
  const refused: Error[] = [];
  const listen = (): Promise<RelayServer> =>
    RelayServer.listen({
      socketDir: lab.socketDir,
      tls: lab.center,
      onRelayed: (...way) => relayed.push(way.join(' ')),
      onRefused: (error) => refused.push(error),
    });
  let relay = await listen();
  return {
    ...lab,
    ap2: await issueSiteCertificate(lab.ca, 'ap2'),
    get relay() {
      return relay;
    },
    relayAddress: { ...lab.address, relay: 'center' },
    relayed,
    refused,
    async restartRelay() {
      await relay[Symbol.asyncDispose]();
      relay = await listen();
    },
    async [Symbol.asyncDispose]() {
      await relay[Symbol.asyncDispose]();
      await lab[Symbol.asyncDispose]();
    },
  };
}

export interface RelayedPair extends AsyncDisposable {
  near: LinkSession;
  far: LinkSession;
}

/** A session from ap1 to ap2, which listens at the relay only. */
export async function relayedPair(
  lab: RelayLab,
  options: { onNear?: MessageHandler; onFar?: MessageHandler } = {},
): Promise<RelayedPair> {
  const { onNear = () => {}, onFar = () => {} } = options;
  const sessionId = 'm2';
  const listener = await LinkListener.listen({
    socketPath: join(lab.dir, 'ap2.sock'),
    tls: lab.ap2,
    relay: { address: lab.relayAddress, route: sessionId },
  });
  const far = listener.accept({ sessionId, expectedPeer: 'ap1', onMessage: onFar });
  const near = dialLink({
    sessionId,
    address: lab.relayAddress,
    route: sessionId,
    tls: lab.ap1,
    expectedPeer: 'ap2',
    onMessage: onNear,
  });
  await Promise.all([near.opened(), far.opened()]);
  return {
    near,
    far,
    async [Symbol.asyncDispose]() {
      await near[Symbol.asyncDispose]();
      await far[Symbol.asyncDispose]();
      await listener[Symbol.asyncDispose]();
    },
  };
}

/** A proxy in front of a port that keeps all that passes. */
export async function wiretap(port: number): Promise<AsyncDisposable & { port: number; heard(): Buffer }> {
  const chunks: Buffer[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const inside = connect(port, '127.0.0.1');
    for (const [from, to] of [
      [client, inside],
      [inside, client],
    ] as const) {
      sockets.add(from);
      from.on('error', () => to.destroy());
      from.on('close', () => to.destroy());
      from.on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        to.write(chunk);
      });
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as { port: number }).port,
    heard: () => Buffer.concat(chunks),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
