import { chmod, rm } from 'node:fs/promises';
import type { Center } from '../center/center.ts';
import { portalApp } from './app.ts';
import { Accounts } from './auth/accounts.ts';
import { EventHub } from './events.ts';
import { Metrics } from './metrics.ts';
import type { Portal } from './portal.ts';
import { Tasks } from './tasks.ts';

export interface PortalAddresses {
  /** For the center's own administrator: whoever may open it. */
  readonly socket: string;
  /** HTTPS, with the center's certificate. */
  readonly listen?: { host: string; port: number } | undefined;
}

/** Serves the API of a center that runs. */
export async function servePortal(
  center: Center,
  { socket, listen }: PortalAddresses,
  limits: { requestsPerMinute?: number } = {},
): Promise<AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const portal: Portal = {
    center,
    accounts: new Accounts(center.plane),
    tasks: new Tasks(),
    events: stack.use(new EventHub(center)),
    metrics: stack.use(new Metrics(center)),
    ...limits,
  };
  const local = await portalApp(portal, { local: true });
  stack.defer(async () => {
    await local.close();
  });
  await rm(socket, { force: true });
  await local.listen({ path: socket });
  await chmod(socket, 0o600);
  if (listen) {
    const remote = await portalApp(portal, { local: false, tls: center.tls });
    stack.defer(async () => {
      await remote.close();
    });
    await remote.listen(listen);
  }
  return stack.move();
}
