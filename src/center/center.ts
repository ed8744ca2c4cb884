import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import type { Logger } from 'pino';
import { errorCode } from '../base/errors.ts';
import { connectControl, type ControlAddress } from '../control/connect.ts';
import { Fleet } from '../control/fleet.ts';
import { openControlPlane, type ControlPlane } from '../control/plane.ts';
import { NatsServer } from '../control/server.ts';
import { certificateFacts, loadCa, natsUserOf, type Ca } from '../link/pki.ts';
import type { TlsMaterial } from '../link/tls.ts';
import { SiteAgent } from '../host/site-agent.ts';
import { PresenceTracker } from '../mobility/tracker.ts';
import { natsUsers } from '../registry/permissions.ts';
import { renewOwn } from '../registry/renewal.ts';
import { Registry } from '../registry/registry.ts';
import { serveEnrolment } from '../registry/server.ts';
import { MoveQueue } from '../schedule/queue.ts';
import { formatAddress } from '../site/config-text.ts';
import { makeRuntimeDir, removeRuntimeDir } from '../site/paths.ts';
import { loadTls } from '../site/tls.ts';
import type { CenterConfig } from './config.ts';
import { MOVES_PER_HOST, MOVES_PER_LINK } from './constants.ts';
import { Drains } from './drains.ts';
import { Follow } from './follow.ts';
import { notifyMoves } from './mec.ts';
import { Moves } from './moves/moves.ts';

/**
 * The Cloud center's agent: keeps the records, decides where VMs should be, and has them moved. Everything that it
 * knows is in the control plane: another one that starts goes on where it stopped.
 */
export class Center implements AsyncDisposable {
  readonly config: CenterConfig;
  readonly log: Logger;
  readonly plane: ControlPlane;
  readonly fleet: Fleet;
  readonly moves: Moves;
  readonly follow: Follow;
  readonly drains: Drains;
  readonly tracker: PresenceTracker;
  readonly registry: Registry;
  /** Its certificate. */
  readonly tls: TlsMaterial;
  readonly nats: NatsServer | undefined;
  readonly #stack: AsyncDisposableStack;

  private constructor(
    parts: Pick<
      Center,
      | 'config'
      | 'log'
      | 'plane'
      | 'fleet'
      | 'moves'
      | 'follow'
      | 'drains'
      | 'tracker'
      | 'registry'
      | 'tls'
      | 'nats'
    >,
    stack: AsyncDisposableStack,
  ) {
    this.config = parts.config;
    this.log = parts.log;
    this.plane = parts.plane;
    this.fleet = parts.fleet;
    this.moves = parts.moves;
    this.follow = parts.follow;
    this.drains = parts.drains;
    this.tracker = parts.tracker;
    this.registry = parts.registry;
    this.tls = parts.tls;
    this.nats = parts.nats;
    this.#stack = stack;
  }

  /** @throws CONTROL_*, SITE_TLS, SITE_RUNTIME_DIR */
  static async start(config: CenterConfig, log: Logger): Promise<Center> {
    await using stack = new AsyncDisposableStack();
    makeRuntimeDir(config.runtimeDir);
    stack.defer(() => removeRuntimeDir(config.runtimeDir));
    const ca = await loadCa(config.enrol.ca);
    if (await renewOwn(config.id, config.tls, ca)) log.info('certificate renewed');
    const tls = await loadTls(config.tls, config.id);
    const { nats, address, replicas } = await controlOf(config, tls, log);
    if (nats) stack.use(nats);
    const connection: NatsConnection = await connectControl(config.id, address, { log });
    stack.defer(() => connection.close());
    const plane = await openControlPlane(connection, { log, create: true, replicas });
    await ownSite(plane, config.id);
    const registry = await openRegistry(config, { ca, plane, nats, tls, log, address });
    stack.defer(async () => {
      await registry.server.close();
    });
    const fleet = await Fleet.open(plane, log);
    stack.defer(() => fleet.close());
    stack.use(SiteAgent.serve(plane, fleet, config.id, log));
    const moves = new Moves({
      plane,
      log,
      turns: new MoveQueue({ perLink: MOVES_PER_LINK, perHost: MOVES_PER_HOST }),
      locate: (vm) => fleet.vm(vm),
      siteKnown: (site) => fleet.site(site) !== undefined,
    });
    stack.defer(() => moves.close());
    await moves.recover();
    const follow = Follow.start({ fleet, moves, log });
    stack.defer(() => follow.close());
    const drains = Drains.start({ plane, fleet, moves, center: config.id, log });
    stack.defer(() => drains.close());
    if (config.mec) stack.use(notifyMoves({ urls: config.mec.notify, fleet, moves, log }));
    const tracker = PresenceTracker.start({
      plane,
      log,
      onMoved: (user, site) => {
        log.info({ user, site }, 'user moved');
        follow.moved(user);
      },
    });
    stack.defer(() => tracker.close());
    log.info({ nats: nats?.pid }, 'center ready');
    return new Center(
      { config, log, plane, fleet, moves, follow, drains, tracker, registry: registry.registry, tls, nats },
      stack.move(),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** Who may be in the system, and where they ask to be let in. */
async function openRegistry(
  config: CenterConfig,
  parts: {
    ca: Ca;
    plane: ControlPlane;
    nats: NatsServer | undefined;
    tls: TlsMaterial;
    log: Logger;
    address: ControlAddress;
  },
): Promise<{ registry: Registry; server: AsyncCloser }> {
  const { ca, plane, nats, tls, log, address } = parts;
  const { listen, advertise = listen, servers } = config.enrol;
  const registry = new Registry({
    plane,
    ca,
    center: config.id,
    log,
    address: formatAddress(advertise),
    // of a NATS of the user's its operator keeps the users: docs/REGISTRY.md
    apply: async (nodes) => nats?.setUsers(natsUsers(nodes)),
  });
  await registry.start(certificateFacts(tls.cert));
  const server = await serveEnrolment({
    registry,
    listen,
    tls,
    center: config.id,
    servers: servers?.map(formatAddress) ?? address.servers,
  });
  return { registry, server };
}

interface AsyncCloser {
  close(): Promise<unknown>;
}

async function controlOf(
  config: CenterConfig,
  own: TlsMaterial,
  log: Logger,
): Promise<{ nats: NatsServer | undefined; address: ControlAddress; replicas: number }> {
  if ('servers' in config.nats) {
    const { servers, user, password, token, replicas } = config.nats;
    const address = {
      servers: servers.map(formatAddress),
      ...(user === undefined ? {} : { user }),
      ...(password === undefined ? {} : { password }),
      ...(token === undefined ? {} : { token }),
    };
    return { nats: undefined, address, replicas };
  }
  const { listen } = config.nats;
  const nats = await NatsServer.start({
    dataDir: join(config.dataDir, 'nats'),
    listen,
    tls: config.tls,
    users: [{ user: natsUserOf(certificateFacts(own.cert).serial) }],
    onRestarted: (err) => log.error({ err: err?.message }, 'nats-server had ended'),
  });
  const self = { host: listen.host === '0.0.0.0' ? '127.0.0.1' : listen.host, port: listen.port };
  const address = { servers: [formatAddress(self)], tls: { files: config.tls, server: config.id } };
  return { nats, address, replicas: 1 };
}

/** The center is a site itself. */
async function ownSite(plane: ControlPlane, site: string): Promise<void> {
  try {
    await plane.buckets.sites.create(site, { version: 1, site, tier: 'center', createdAtMs: Date.now() });
  } catch (error) {
    if (errorCode(error) !== 'CONTROL_CONFLICT') throw error;
  }
}
