import * as z from 'zod';
import { rebalance } from '../../center/rebalance.ts';
import { nodeIdSchema } from '../../control/messages.ts';
import { API_PREFIX } from '../constants.ts';
import { drainViewSchema, rebalancedSchema, rebalanceSchema } from '../messages.ts';
import type { App, Portal } from '../portal.ts';

/** Evening out the hosts of a site, and emptying one. */
export function scheduleRoutes(app: App, { center }: Portal): void {
  const { drains } = center;
  app.post(
    `${API_PREFIX}/sites/:site/rebalance`,
    {
      config: { allow: 'operator' },
      schema: {
        description: 'Evens out its hosts by moving VMs between them.',
        params: z.strictObject({ site: nodeIdSchema }),
        body: rebalanceSchema,
        response: { 200: rebalancedSchema },
      },
    },
    ({ params: { site }, body: { dryRun } }) => rebalance(center, site, dryRun),
  );
  const path = `${API_PREFIX}/sites/:site/hosts/:host/drain`;
  const params = z.strictObject({ site: nodeIdSchema, host: nodeIdSchema });
  const response = { 200: drainViewSchema };
  app.get(
    path,
    { config: { allow: 'operator' }, schema: { params, response } },
    ({ params: { site, host } }) => drains.view(site, host),
  );
  app.put(
    path,
    {
      config: { allow: 'operator' },
      schema: { description: 'It gets no VM any more, and those that it has leave.', params, response },
    },
    ({ params: { site, host } }) => drains.set(site, host, true),
  );
  app.delete(
    path,
    { config: { allow: 'operator' }, schema: { description: 'It takes VMs again.', params, response } },
    ({ params: { site, host } }) => drains.set(site, host, false),
  );
}
