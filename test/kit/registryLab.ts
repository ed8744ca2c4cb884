import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import type { NatsConnection } from '@nats-io/transport-node';
import { freePort } from '../../src/lab/free-port.ts';
import { connectControl, type ControlAddress } from '../../src/control/connect.ts';
import type { NodeRecord } from '../../src/control/messages.ts';
import { openControlPlane, type ControlPlane } from '../../src/control/plane.ts';
import { NatsServer } from '../../src/control/server.ts';
import {
  certificateFacts,
  createCa,
  issueSiteCertificate,
  natsUserOf,
  writeSiteCertificate,
  type Ca,
} from '../../src/link/pki.ts';
import type { TlsMaterial } from '../../src/link/tls.ts';
import { enrol, type Enrolled } from '../../src/registry/enrol.ts';
import { natsUsers } from '../../src/registry/permissions.ts';
import { Registry } from '../../src/registry/registry.ts';
import { serveEnrolment } from '../../src/registry/server.ts';
import { decodeToken } from '../../src/registry/token.ts';
import { silent } from './nats.ts';
import { tempDir, type TempDir } from './tempdir.ts';

/** A center's registry with a real nats-server and its enrolment service, without the rest of a center. */
export class RegistryLab implements AsyncDisposable {
  readonly dir: TempDir;
  readonly ca: Ca;
  readonly material: TlsMaterial;
  readonly nats: NatsServer;
  readonly plane: ControlPlane;
  readonly registry: Registry;
  readonly service: FastifyInstance;
  readonly address: { host: string; port: number };
  readonly listen: { host: string; port: number };
  /** What the registry takes for the time, beside the real one. */
  readonly clock: { aheadMs: number };
  readonly #stack: AsyncDisposableStack;

  private constructor(
    parts: Omit<RegistryLab, 'token' | 'enrol' | 'tlsOf' | 'connect' | typeof Symbol.asyncDispose>,
    stack: AsyncDisposableStack,
  ) {
    this.dir = parts.dir;
    this.ca = parts.ca;
    this.material = parts.material;
    this.nats = parts.nats;
    this.plane = parts.plane;
    this.registry = parts.registry;
    this.service = parts.service;
    this.address = parts.address;
    this.listen = parts.listen;
    this.clock = parts.clock;
    this.#stack = stack;
  }

  static async start(options: { requestsPerMinute?: number } = {}): Promise<RegistryLab> {
    await using stack = new AsyncDisposableStack();
    const dir = stack.use(await tempDir());
    const ca = await createCa(dir.file('ca'));
    const material = await issueSiteCertificate(ca, 'center');
    await writeSiteCertificate(dir.file('center'), material);
    const listen = { host: '127.0.0.1', port: await freePort() };
    const own = certificateFacts(material.cert);
    const nats = stack.use(
      await NatsServer.start({
        dataDir: dir.file('nats'),
        listen,
        tls: filesIn(dir.file('center')),
        users: [{ user: natsUserOf(own.serial) }],
      }),
    );
    const control: ControlAddress = {
      servers: [`${listen.host}:${listen.port}`],
      tls: { files: filesIn(dir.file('center')), server: 'center' },
    };
    const connection = await connectControl('center', control, { log: silent });
    stack.defer(() => connection.close());
    const plane = await openControlPlane(connection, { log: silent, create: true });
    const address = { host: '127.0.0.1', port: await freePort() };
    const clock = { aheadMs: 0 };
    const registry = new Registry({
      plane,
      ca,
      center: 'center',
      log: silent,
      address: `${address.host}:${address.port}`,
      apply: async (nodes: readonly NodeRecord[]) => nats.setUsers(natsUsers(nodes)),
      now: () => Date.now() + clock.aheadMs,
    });
    await registry.start(own);
    const service = await serveEnrolment({
      registry,
      listen: address,
      tls: material,
      center: 'center',
      servers: control.servers,
      ...options,
    });
    stack.defer(async () => {
      await service.close();
    });
    return new RegistryLab(
      { dir, ca, material, nats, plane, registry, service, address, listen, clock },
      stack.move(),
    );
  }

  async token(node: string, site: string, role: 'host' | 'agent' = 'host', ttlMs = 60_000): Promise<string> {
    return (await this.registry.createToken({ node, role, site, ttlMs })).token;
  }

  /** Enrols a node, and writes its certificate into a folder of its own. */
  async enrol(node: string, site: string, role: 'host' | 'agent' = 'host'): Promise<Enrolled> {
    const enrolled = await enrol(decodeToken(await this.token(node, site, role)), this.address);
    await writeSiteCertificate(this.dir.file(node), enrolled.material);
    return enrolled;
  }

  /** The control plane as that node sees it. */
  connect(node: string, wait = false): Promise<NatsConnection> {
    const { host, port } = this.listen;
    const address: ControlAddress = {
      servers: [`${host}:${port}`],
      tls: { files: filesIn(this.dir.file(node)), server: 'center' },
    };
    return connectControl(node, address, { log: silent, wait });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

export const filesIn = (dir: string): { ca: string; cert: string; key: string } => ({
  ca: join(dir, 'ca.pem'),
  cert: join(dir, 'site.pem'),
  key: join(dir, 'site.key'),
});
