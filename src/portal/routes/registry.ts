import * as z from 'zod';
import { nodeRecordSchema } from '../../control/messages.ts';
import { API_PREFIX } from '../constants.ts';
import type { App, Portal } from '../portal.ts';
import {
  createTokenSchema,
  removedSchema,
  revokeSchema,
  tokenAnswerSchema,
  tokenViewSchema,
} from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';

/** Which machines belong to the system. */
export function registryRoutes(app: App, { center }: Portal): void {
  const { registry } = center;
  app.get(
    `${API_PREFIX}/nodes`,
    {
      config: { allow: 'operator' },
      schema: { querystring: pageQuerySchema, response: { 200: pageOf(nodeRecordSchema) } },
    },
    async ({ query }) => page(await registry.nodes(), ({ node }) => node, query),
  );
  app.get(
    `${API_PREFIX}/enrolments`,
    {
      config: { allow: 'admin' },
      schema: { querystring: pageQuerySchema, response: { 200: pageOf(tokenViewSchema) } },
    },
    async ({ query }) => page(await registry.tokens(), ({ id }) => id, query),
  );
  app.post(
    `${API_PREFIX}/enrolments`,
    {
      config: { allow: 'admin' },
      schema: {
        description: 'A token with which one machine enrols, once.',
        body: createTokenSchema,
        response: { 201: tokenAnswerSchema },
      },
    },
    async ({ body }, reply) => reply.code(201).send(await registry.createToken(body)),
  );
  app.delete(
    `${API_PREFIX}/enrolments/:id`,
    {
      config: { allow: 'admin' },
      schema: {
        params: z.strictObject({ id: z.string().regex(/^[0-9a-f]{16}$/) }),
        response: { 200: removedSchema },
      },
    },
    async ({ params: { id } }) => {
      await registry.removeToken(id);
      return { id, removed: true as const };
    },
  );
  app.post(
    `${API_PREFIX}/revocations`,
    {
      config: { allow: 'admin' },
      schema: {
        description: 'Shuts a node, or all of a site, out at once.',
        body: revokeSchema,
        response: { 200: z.array(nodeRecordSchema) },
      },
    },
    ({ body }) => registry.revoke(body),
  );
}
