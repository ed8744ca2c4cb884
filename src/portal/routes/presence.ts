import { randomUUID } from 'node:crypto';
import * as z from 'zod';
import { failCenter } from '../../center/errors.ts';
import { deviceIdSchema, presenceSchema } from '../../control/messages.ts';
import { token } from '../../control/subjects.ts';
import { signDeviceToken } from '../../mobility/device-token.ts';
import { API_PREFIX } from '../constants.ts';
import type { App, Portal } from '../portal.ts';
import { mayAs, owns, type Principal } from '../auth/principal.ts';
import { failPortal } from '../errors.ts';
import {
  deviceTokenAnswerSchema,
  deviceTokenSchema,
  deviceViewSchema,
  postPresenceSchema,
  putDeviceSchema,
  removedSchema,
} from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';

const params = z.strictObject({ id: deviceIdSchema });

/** Devices, and where they are. */
export function presenceRoutes(app: App, { center }: Portal): void {
  const { plane, fleet, tracker, tls } = center;
  const ownerOf = async (device: string): Promise<string | undefined> =>
    (await plane.buckets.devices.get(token(device)))?.value.user;
  const requireOwn = async (principal: Principal, device: string): Promise<void> => {
    if (!owns(principal, await ownerOf(device))) throw failPortal('AUTH_FORBIDDEN', 'it is not your device');
  };
  app.get(
    `${API_PREFIX}/devices`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'One’s own devices; of an operator all.',
        querystring: pageQuerySchema,
        response: { 200: pageOf(deviceViewSchema) },
      },
    },
    async ({ principal, query }) => {
      const all = [...(await plane.buckets.devices.all()).values()];
      const mine = all.filter(({ user }) => mayAs(principal, 'operator') || user === principal.user);
      const { items, next } = page(mine, ({ device }) => device, query);
      return { items: items.map(({ device, user }) => ({ device, user })), next };
    },
  );
  app.get(
    `${API_PREFIX}/devices/strangers`,
    {
      config: { allow: 'operator' },
      schema: {
        description: 'Seen, and nobody’s.',
        querystring: pageQuerySchema,
        response: { 200: pageOf(presenceSchema) },
      },
    },
    ({ query }) => page(tracker.strangers(), ({ device }) => device, query),
  );
  app.put(
    `${API_PREFIX}/devices/:id`,
    {
      config: { allow: 'operator' },
      schema: {
        description: 'Says whose it is.',
        params,
        body: putDeviceSchema,
        response: { 200: deviceViewSchema },
      },
    },
    async ({ params: { id }, body: { user } }) => {
      const device = id.toLowerCase();
      await plane.buckets.devices.put(token(device), { version: 1, device, user, addedAtMs: Date.now() });
      return { device, user };
    },
  );
  app.delete(
    `${API_PREFIX}/devices/:id`,
    { config: { allow: 'operator' }, schema: { params, response: { 200: removedSchema } } },
    async ({ params: { id } }) => {
      const device = id.toLowerCase();
      await plane.buckets.devices.remove(token(device));
      return { id: device, removed: true as const };
    },
  );
  app.post(
    `${API_PREFIX}/devices/:id/token`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'What it shows at a site’s portal.',
        params,
        body: deviceTokenSchema,
        response: { 200: deviceTokenAnswerSchema },
      },
    },
    async ({ principal, params: { id }, body: { ttlMs } }) => {
      const device = id.toLowerCase();
      await requireOwn(principal, device);
      const expiresAtMs = Date.now() + ttlMs;
      return { device, token: await signDeviceToken(tls, device, expiresAtMs), expiresAtMs };
    },
  );
  app.post(
    `${API_PREFIX}/presence`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'A device is at a site now, or has left it. Of an operator any device, else one’s own.',
        body: postPresenceSchema,
        response: { 202: z.object({ id: z.string() }) },
      },
    },
    async ({ principal, body }, reply) => {
      const { site, kind, id = randomUUID() } = body;
      const device = body.device.toLowerCase();
      if (!mayAs(principal, 'operator')) await requireOwn(principal, device);
      if (!fleet.site(site)) throw failCenter('MOVE_SITE_UNKNOWN', site);
      await plane.publishPresence({ version: 1, id, device, site, kind, source: 'api', atMs: Date.now() });
      return reply.code(202).send({ id });
    },
  );
}
