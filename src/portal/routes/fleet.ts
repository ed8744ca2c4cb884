import * as z from 'zod';
import { nodeIdSchema, siteRecordSchema, whereaboutsSchema } from '../../control/messages.ts';
import { API_PREFIX } from '../constants.ts';
import type { App, Portal } from '../portal.ts';
import { hostViewSchema, putSiteSchema } from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';

/** Sites, hosts, and where users are. */
export function fleetRoutes(app: App, { center }: Portal): void {
  const { config, fleet, plane } = center;
  app.get(
    `${API_PREFIX}/sites`,
    {
      config: { allow: 'operator' },
      schema: { querystring: pageQuerySchema, response: { 200: pageOf(siteRecordSchema) } },
    },
    ({ query }) => page(fleet.sites(), ({ site }) => site, query),
  );
  app.put(
    `${API_PREFIX}/sites/:site`,
    {
      config: { allow: 'admin' },
      schema: {
        description: 'Makes a site, or changes how it places VMs.',
        params: z.strictObject({ site: nodeIdSchema }),
        body: putSiteSchema,
        response: { 200: siteRecordSchema },
      },
    },
    async ({ params: { site }, body: { label, strategy } }) => {
      const before = await plane.buckets.sites.get(site);
      const tier = site === config.id ? ('center' as const) : ('ap' as const);
      const createdAtMs = before?.value.createdAtMs ?? Date.now();
      const draining = before?.value.draining ?? [];
      const record = { version: 1 as const, site, tier, label, strategy, draining, createdAtMs };
      await plane.buckets.sites.put(site, record);
      return record;
    },
  );
  app.get(
    `${API_PREFIX}/hosts`,
    {
      config: { allow: 'operator' },
      schema: { querystring: pageQuerySchema, response: { 200: pageOf(hostViewSchema) } },
    },
    ({ query }) => {
      const { items, next } = page(fleet.hosts(), ({ host }) => host, query);
      return {
        items: items.map(({ host, site, alive, draining, heartbeat, inventory }) => ({
          host,
          site,
          alive,
          draining,
          heartbeat,
          inventory: inventory ?? null,
        })),
        next,
      };
    },
  );
  app.get(
    `${API_PREFIX}/users`,
    {
      config: { allow: 'operator' },
      schema: {
        description: 'Where users are.',
        querystring: pageQuerySchema,
        response: { 200: pageOf(whereaboutsSchema) },
      },
    },
    async ({ query }) => page((await plane.buckets.whereabouts.all()).values(), ({ user }) => user, query),
  );
}
