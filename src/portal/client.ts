import { readFile } from 'node:fs/promises';
import { sleep } from '../base/async.ts';
import { CloudapError } from '../base/errors.ts';
import { identityCheck } from '../link/tls.ts';
import { ApiClient } from '../site/api/client.ts';
import { vmViewSchema, type VmView } from '../site/api/messages.ts';
import { API_PREFIX, TASK_WAIT_MAX_MS } from './constants.ts';
import { taskViewSchema } from './messages.ts';

/** How often a task that the center has lost sight of, as it was started again, is asked for. */
const POLL_MS = 250;

/** The center's API on its own machine. */
export const localPortal = (socket: string): ApiClient => new ApiClient(socket, API_PREFIX);

/** The center's API from elsewhere: the center is known by the CA and its node id. */
export async function remotePortal(options: {
  host: string;
  port: number;
  caFile: string;
  center: string;
  token?: string | undefined;
}): Promise<ApiClient> {
  const { host, port, caFile, center, token } = options;
  return new ApiClient(
    {
      host,
      port,
      token,
      ca: await readFile(caFile, 'utf8'),
      checkServerIdentity: identityCheck(center),
    },
    API_PREFIX,
  );
}

/** Has a VM made, and waits for it. @throws what the center answers */
export async function makeVm(client: ApiClient, body: object): Promise<VmView> {
  let task = await client.json('POST', '/vms', taskViewSchema, { body });
  while (task.state === 'running') {
    task = await client.json('GET', `/tasks/${task.id}?waitMs=${TASK_WAIT_MAX_MS / 4}`, taskViewSchema);
    if (task.state === 'running') await sleep(POLL_MS);
  }
  if (task.error) {
    const { code, message, remedy, fields } = task.error;
    throw new CloudapError(code, message, remedy, { fields });
  }
  return vmViewSchema.parse(task.result);
}
