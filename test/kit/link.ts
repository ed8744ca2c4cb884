import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { dialLink } from '../../src/link/dial.ts';
import { Emulator, type EmulatorOptions } from '../../src/link/emulator.ts';
import { Gateway } from '../../src/link/gateway.ts';
import { LinkListener } from '../../src/link/listener.ts';
import { type Ca, generateCa, issueSiteCertificate } from '../../src/link/pki.ts';
import type { TlsMaterial } from '../../src/link/tls.ts';
import type { LinkSession, MessageHandler } from '../../src/link/types.ts';

/** Two sites with certificates, the gateway of one of them, and an emulated WAN in front of it. */
export interface LinkLab extends AsyncDisposable {
  dir: string;
  /** Where routes have their sockets: `<socketDir>/<route>.sock`. */
  socketDir: string;
  ca: Ca;
  /** The dialling site, `ap1`, and the listening one, `center`. */
  ap1: TlsMaterial;
  center: TlsMaterial;
  gateway: Gateway;
  wan: Emulator;
  /** What to dial: the emulator, which leads to the gateway. */
  address: { host: string; port: number };
}

export async function linkLab(link: Partial<EmulatorOptions> = {}): Promise<LinkLab> {
  const dir = await mkdtemp(join(tmpdir(), 'll-'));
  const socketDir = join(dir, 'link');
  await mkdir(socketDir);
  const ca = await generateCa();
  const gateway = await Gateway.listen({ host: '127.0.0.1', port: 0, socketDir, preambleTimeoutMs: 300 });
  const wan = await Emulator.listen({
    listen: { host: '127.0.0.1', port: 0 },
    forward: { host: '127.0.0.1', port: gateway.port },
    ...link,
  });
  return {
    dir,
    socketDir,
    ca,
    ap1: await issueSiteCertificate(ca, 'ap1'),
    center: await issueSiteCertificate(ca, 'center'),
    gateway,
    wan,
    address: wan.address as { host: string; port: number },
    async [Symbol.asyncDispose]() {
      await wan[Symbol.asyncDispose]();
      await gateway[Symbol.asyncDispose]();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

export interface LinkPair extends AsyncDisposable {
  near: LinkSession;
  far: LinkSession;
  listener: LinkListener;
}

/** A session between the two sites of a lab: `near` dials from ap1, `far` listens at the center. */
export async function linkPair(
  lab: LinkLab,
  options: {
    onNear?: MessageHandler;
    onFar?: MessageHandler;
    lossTimeoutMs?: number;
    connectTimeoutMs?: number;
    signal?: AbortSignal;
  } = {},
): Promise<LinkPair> {
  const sessionId = 'm1';
  const { onNear = () => {}, onFar = () => {}, signal, ...rest } = options;
  const listener = await LinkListener.listen({ socketPath: join(lab.socketDir, 'm1.sock'), tls: lab.center });
  const far = listener.accept({ sessionId, expectedPeer: 'ap1', onMessage: onFar, ...rest });
  const near = dialLink({
    sessionId,
    address: lab.address,
    route: 'm1',
    tls: lab.ap1,
    expectedPeer: 'center',
    onMessage: onNear,
    signal,
    ...rest,
  });
  await Promise.all([near.opened(), far.opened()]);
  return {
    near,
    far,
    listener,
    async [Symbol.asyncDispose]() {
      await near[Symbol.asyncDispose]();
      await far[Symbol.asyncDispose]();
      await listener[Symbol.asyncDispose]();
    },
  };
}
