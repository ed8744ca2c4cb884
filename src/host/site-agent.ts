import type { NatsConnection } from '@nats-io/transport-node';
import type { Logger } from 'pino';
import { sleep } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import { connectControl, type ControlAddress } from '../control/connect.ts';
import { Fleet } from '../control/fleet.ts';
import { openControlPlane, type ControlPlane } from '../control/plane.ts';
import { serveRequests } from '../control/requests.ts';
import { siteSubject } from '../control/subjects.ts';
import type { PresencePublisher } from '../mobility/publisher.ts';
import { SitePlacer } from '../schedule/placer.ts';

const REOPEN_MS = 500;

/** The agent of a site: says which of its hosts takes a VM that comes. The center has one for its own site, too. */
export class SiteAgent implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;

  private constructor(stack: AsyncDisposableStack) {
    this.#stack = stack;
  }

  /** On a connection that is there; `plane` and `fleet` stay the caller's. */
  static serve(plane: ControlPlane, fleet: Fleet, site: string, log: Logger): Disposable {
    const placer = new SitePlacer({ plane, fleet, site });
    return serveRequests(
      plane.connection,
      siteSubject(site, '').slice(0, -1),
      placer.methods(),
      (subject, error) => log.info({ subject, code: error.code, err: error.message }, 'request refused'),
    );
  }

  /** Connects, and waits for the control plane for as long as it takes. @throws the signal's reason, CONTROL_REFUSED */
  static async start(options: {
    node: string;
    site: string;
    address: ControlAddress;
    log: Logger;
    signal: AbortSignal;
    /** What the site's sources see. */
    presence?: PresencePublisher;
  }): Promise<SiteAgent & { plane: ControlPlane; fleet: Fleet }> {
    const { node, site, address, log, signal, presence } = options;
    await using stack = new AsyncDisposableStack();
    const connection: NatsConnection = await connectControl(node, address, { log, wait: true });
    stack.defer(() => connection.close());
    const plane = await opened(connection, log, signal);
    const fleet = await Fleet.open(plane, log, { site });
    stack.defer(() => fleet.close());
    stack.use(SiteAgent.serve(plane, fleet, site, log));
    const stop = new AbortController();
    const publishing = presence?.run(plane, stop.signal);
    stack.defer(async () => {
      stop.abort();
      await publishing;
    });
    return Object.assign(new SiteAgent(stack.move()), { plane, fleet });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** The center may not have made its buckets yet. */
async function opened(connection: NatsConnection, log: Logger, signal: AbortSignal): Promise<ControlPlane> {
  for (;;) {
    try {
      return await openControlPlane(connection, { log });
    } catch (error) {
      log.info({ err: asCloudapError(error).message }, 'waiting for the control plane');
      await sleep(REOPEN_MS, signal);
    }
  }
}
