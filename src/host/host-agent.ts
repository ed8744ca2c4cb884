import type { NatsConnection } from '@nats-io/transport-node';
import type { Logger } from 'pino';
import * as z from 'zod';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import { ImageStore } from '../content/images/store.ts';
import { connectControl } from '../control/connect.ts';
import { openControlPlane, type ControlPlane } from '../control/plane.ts';
import { request, serveRequests } from '../control/requests.ts';
import { hostSubject, progressSubject } from '../control/subjects.ts';
import { keepRenewed } from '../registry/renewal.ts';
import type { Site } from '../site/site.ts';
import { ANSWER_MS, KEEP_CONNECTED_MS, VM_SCAN_MS } from './constants.ts';
import { controlAddress } from './control-address.ts';
import { failHost } from './errors.ts';
import { Heartbeats } from './heartbeats.ts';
import { hostMethods } from './methods.ts';
import { keepPeersFile } from './peers-file.ts';
import { Reach } from './reach.ts';
import { VmRecords } from './vm-records.ts';

/**
 * Joins a site's agent, as one host of a site, to the control plane: says what it has, does what it is asked. The
 * agent beneath knows nothing of it and runs on while the control plane cannot be reached, from the first moment.
 */
export class HostAgent implements AsyncDisposable {
  readonly #site: Site;
  readonly #siteId: string;
  readonly #log: Logger;
  readonly #stop = new AbortController();
  #connection: NatsConnection | undefined;
  #running: Promise<void>;

  private constructor(site: Site, siteId: string, log: Logger) {
    this.#site = site;
    this.#siteId = siteId;
    this.#log = log;
    this.#running = Promise.resolve();
  }

  /** @throws HOST_NO_CONTROL */
  static start(site: Site, log: Logger): HostAgent {
    const { control } = site.config;
    if (!control) throw failHost('HOST_NO_CONTROL');
    const agent = new HostAgent(site, control.site, log);
    agent.#running = agent.#run(control).catch((error: unknown) => {
      if (!agent.#stop.signal.aborted) log.error({ err: error }, 'control plane');
    });
    return agent;
  }

  async #run(control: NonNullable<Site['config']['control']>): Promise<void> {
    const { signal } = this.#stop;
    const { config } = this.#site;
    const connecting = connectControl(config.id, controlAddress(control, config.tls), {
      log: this.#log,
      wait: true,
    });
    connecting.then(
      (connection) => {
        this.#connection = connection;
        if (signal.aborted) void connection.close();
      },
      () => {},
    );
    const connection = await connecting;
    const plane = await this.#open(connection);
    const images = await ImageStore.open(config.imageDir);
    const reach = this.#reach(plane, control.center);
    const records = new VmRecords(this.#site, this.#siteId, plane);
    const scan = (): void => void records.scan().catch((error: unknown) => this.#failed('VM records', error));
    using _served = serveRequests(
      connection,
      hostSubject(config.id, '').slice(0, -1),
      hostMethods(
        this.#site,
        { connect: (host) => reach.connect(host, signal), asked: (ask) => reach.asked(ask, signal) },
        scan,
      ),
      (subject, error) =>
        this.#log.warn({ subject, code: error.code, err: error.message }, 'request refused'),
    );
    const stopFollowing = this.#site.migrations.onChange((view) => {
      if (view.role === 'source' && !connection.isClosed())
        connection.publish(progressSubject('migration', view.migrationId), JSON.stringify(view));
      scan();
    });
    const heartbeats = new Heartbeats(this.#site, this.#siteId, plane, images);
    this.#log.info({ site: this.#siteId }, 'joined the control plane');
    try {
      await Promise.all([
        this.#every(Heartbeats.intervalMs, () => heartbeats.beat(), 'heartbeat'),
        this.#every(VM_SCAN_MS, () => records.scan(), 'VM records'),
        this.#every(KEEP_CONNECTED_MS, () => this.#keepConnected(reach), 'a host that a VM moves to'),
        config.peersFile === undefined
          ? undefined
          : keepPeersFile(config.peersFile, plane, this.#log, this.#stop.signal),
        control.enrol === undefined
          ? undefined
          : keepRenewed({
              node: config.id,
              files: config.tls,
              center: { id: control.center, address: control.enrol },
              log: this.#log,
              signal,
              onRenewed: (material) => this.#site.renew(material),
            }),
      ]);
    } finally {
      stopFollowing();
    }
  }

  /** The center may not have made its buckets yet. */
  async #open(connection: NatsConnection): Promise<ControlPlane> {
    for (;;) {
      try {
        return await openControlPlane(connection, { log: this.#log });
      } catch (error) {
        this.#stop.signal.throwIfAborted();
        this.#failed('opening the control plane', error);
        await sleep(VM_SCAN_MS, this.#stop.signal);
      }
    }
  }

  async #every(intervalMs: number, work: () => Promise<void>, what: string): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      await work().catch((error: unknown) => this.#failed(what, error));
      await sleep(intervalMs, signal).catch(() => {});
    }
  }

  #failed(what: string, error: unknown): void {
    if (!this.#stop.signal.aborted) this.#log.warn({ err: asCloudapError(error).message }, what);
  }

  #reach(plane: ControlPlane, center: string): Reach {
    const { peers, config } = this.#site;
    const { inventories } = plane.buckets;
    return new Reach({
      host: config.id,
      address: config.link.advertise ?? config.link.listen,
      center,
      peers,
      async inventories(site, host) {
        const keys = await inventories.keys(`${site}.${host}`);
        const found = await Promise.all(keys.map((key) => inventories.get(key)));
        return found.flatMap((one) => (one ? [one.value] : []));
      },
      async ask(host, params, timeoutMs) {
        const subject = hostSubject(host, 'connect');
        // its own attempt takes as long, and it should say itself why it failed
        await request(plane.connection, subject, params, z.unknown(), { timeoutMs: timeoutMs + ANSWER_MS });
      },
      log: this.#log,
    });
  }

  /** A host that takes part in a migration and has lost the other, by a restart of either agent, finds it again. */
  async #keepConnected(reach: Reach): Promise<void> {
    const { migrations, peers } = this.#site;
    const away = migrations.activePeers().filter((host) => !peers.isConnected(host));
    await Promise.all(away.map((host) => reach.connect(host, this.#stop.signal)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#connection?.close();
    await this.#running;
  }
}
