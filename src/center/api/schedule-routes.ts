import type { FastifyInstance } from 'fastify';
import * as z from 'zod';
import { nodeIdSchema } from '../../control/messages.ts';
import { check } from '../../site/api/check.ts';
import type { Center } from '../center.ts';
import { rebalance } from '../rebalance.ts';
import { rebalanceSchema } from './messages.ts';

const bySite = z.object({ site: nodeIdSchema });
const byHost = z.object({ site: nodeIdSchema, host: nodeIdSchema });

/** Evening out the hosts of a site, and emptying one. */
export function scheduleRoutes(server: FastifyInstance, center: Center): void {
  const { drains } = center;
  server.post('/sites/:site/rebalance', (request) => {
    const { site } = check(bySite, request.params, 'path');
    return rebalance(center, site, check(rebalanceSchema, request.body ?? {}).dryRun);
  });
  const path = '/sites/:site/hosts/:host/drain';
  server.get(path, (request) => {
    const { site, host } = check(byHost, request.params, 'path');
    return drains.view(site, host);
  });
  server.put(path, (request) => {
    const { site, host } = check(byHost, request.params, 'path');
    return drains.set(site, host, true);
  });
  server.delete(path, (request) => {
    const { site, host } = check(byHost, request.params, 'path');
    return drains.set(site, host, false);
  });
}
