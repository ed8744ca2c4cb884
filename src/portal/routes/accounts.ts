import * as z from 'zod';
import { roleSchema, userIdSchema, type Account } from '../../control/messages.ts';
import type { App, Portal } from '../portal.ts';
import { API_PREFIX, PASSWORD_MAX_CHARS } from '../constants.ts';
import { failPortal } from '../errors.ts';
import { accountViewSchema, removedSchema } from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';

const params = z.strictObject({ user: userIdSchema });
const password = z.string().max(PASSWORD_MAX_CHARS);

const viewAccount = ({ user, role, disabled, passwordHash, createdAtMs }: Account) => ({
  user,
  role,
  disabled,
  hasPassword: passwordHash !== null,
  createdAtMs,
});

/** Who may use the API. */
export function accountRoutes(app: App, { accounts }: Portal): void {
  app.get(
    `${API_PREFIX}/accounts`,
    {
      config: { allow: 'admin' },
      schema: { querystring: pageQuerySchema, response: { 200: pageOf(accountViewSchema) } },
    },
    async ({ query }) => page((await accounts.list()).map(viewAccount), ({ user }) => user, query),
  );
  app.post(
    `${API_PREFIX}/accounts`,
    {
      config: { allow: 'admin' },
      schema: {
        body: z.strictObject({
          user: userIdSchema,
          role: roleSchema.default('user'),
          password: password.nullish(),
        }),
        response: { 201: accountViewSchema },
      },
    },
    async ({ body }, reply) => {
      const made = await accounts.create(body.user, body.role, body.password ?? null);
      return reply.code(201).send(viewAccount(made));
    },
  );
  app.patch(
    `${API_PREFIX}/accounts/:user`,
    {
      config: { allow: 'admin' },
      schema: {
        description: 'A new password ends the sessions.',
        params,
        body: z.strictObject({
          role: roleSchema.optional(),
          password: password.optional(),
          disabled: z.boolean().optional(),
        }),
        response: { 200: accountViewSchema },
      },
    },
    async ({ params: { user }, body: { role, password: next, disabled }, principal }) => {
      if (user === principal.user && (disabled === true || (role !== undefined && role !== 'admin')))
        throw failPortal('AUTH_FORBIDDEN', 'an administrator cannot shut themselves out');
      const change = {
        ...(role === undefined ? {} : { role }),
        ...(next === undefined ? {} : { password: next }),
        ...(disabled === undefined ? {} : { disabled }),
      };
      return viewAccount(await accounts.change(user, change));
    },
  );
  app.delete(
    `${API_PREFIX}/accounts/:user`,
    {
      config: { allow: 'admin' },
      schema: {
        description: 'With its sessions and tokens; its VMs stay.',
        params,
        response: { 200: removedSchema },
      },
    },
    async ({ params: { user }, principal }) => {
      if (user === principal.user)
        throw failPortal('AUTH_FORBIDDEN', 'an administrator cannot shut themselves out');
      await accounts.remove(user);
      return { id: user, removed: true as const };
    },
  );
}
