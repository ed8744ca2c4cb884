import * as z from 'zod';
import { roleSchema, userIdSchema } from '../../control/messages.ts';
import type { App, Portal } from '../portal.ts';
import { lesser, mayAs } from '../auth/principal.ts';
import { API_PREFIX, API_TOKEN_TTL_MAX_MS, API_TOKEN_TTL_MS, PASSWORD_MAX_CHARS } from '../constants.ts';
import { failPortal } from '../errors.ts';
import {
  credentialAnswerSchema,
  credentialViewSchema,
  loginSchema,
  meSchema,
  removedSchema,
} from '../messages.ts';
import { page, pageOf, pageQuerySchema } from '../page.ts';

const byId = z.strictObject({ id: z.string().regex(/^[0-9a-f]{16}$/) });
const createTokenSchema = z.strictObject({
  name: z.string().min(1).max(64),
  /** By default who asks. */
  user: userIdSchema.optional(),
  role: roleSchema.optional(),
  ttlMs: z.int().min(60_000).max(API_TOKEN_TTL_MAX_MS).default(API_TOKEN_TTL_MS),
});

/** Logging in and out; tokens of machines; who one is. */
export function sessionRoutes(app: App, { accounts }: Portal): void {
  app.post(
    `${API_PREFIX}/sessions`,
    {
      config: { allow: 'public' },
      schema: { description: 'Log in.', body: loginSchema, response: { 201: credentialAnswerSchema } },
    },
    async ({ body, ip }, reply) => {
      const { user, password } = body;
      return reply.code(201).send(await accounts.login(user, password, ip));
    },
  );
  app.delete(
    `${API_PREFIX}/sessions/current`,
    {
      config: { allow: 'user' },
      schema: { description: 'Log out.', response: { 200: removedSchema } },
    },
    async ({ principal }) => {
      const { credential } = principal;
      if (credential === null) throw failPortal('CREDENTIAL_UNKNOWN', 'there is none');
      await accounts.revoke(credential, () => true);
      return { id: credential, removed: true as const };
    },
  );
  app.get(
    `${API_PREFIX}/me`,
    { config: { allow: 'user' }, schema: { description: 'Who asks.', response: { 200: meSchema } } },
    ({ principal: { user, role, via } }) => ({ user, role, via }),
  );
  app.put(
    `${API_PREFIX}/me/password`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'Ends all sessions.',
        body: z.strictObject({
          present: z.string().max(PASSWORD_MAX_CHARS),
          next: z.string().max(PASSWORD_MAX_CHARS),
        }),
        response: { 200: meSchema },
      },
    },
    async ({ principal, body, ip }) => {
      // proven again, so that a stolen session cannot take the account; the session that this makes ends below
      await accounts.login(principal.user, body.present, ip);
      await accounts.change(principal.user, { password: body.next });
      const { user, role, via } = principal;
      return { user, role, via };
    },
  );
  app.get(
    `${API_PREFIX}/tokens`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'Sessions and tokens: one’s own, of an administrator all.',
        querystring: pageQuerySchema,
        response: { 200: pageOf(credentialViewSchema) },
      },
    },
    async ({ principal, query }) =>
      page(
        await accounts.credentials(mayAs(principal, 'admin') ? undefined : principal.user),
        ({ id }) => id,
        query,
      ),
  );
  app.post(
    `${API_PREFIX}/tokens`,
    {
      config: { allow: 'user' },
      schema: {
        description: 'A token for a machine, with the role that is asked for, at most one’s own.',
        body: createTokenSchema,
        response: { 201: credentialAnswerSchema },
      },
    },
    async ({ principal, body }, reply) => {
      const { name, user = principal.user, ttlMs } = body;
      if (user !== principal.user && !mayAs(principal, 'admin'))
        throw failPortal('AUTH_FORBIDDEN', 'a token of somebody else');
      const account = await accounts.get(user);
      if (!account) throw failPortal('ACCOUNT_UNKNOWN', user);
      const role = lesser(lesser(body.role ?? account.role, account.role), principal.role);
      const issued = await accounts.issue({ user, role, kind: 'token', name, ttlMs });
      return reply.code(201).send(issued);
    },
  );
  app.delete(
    `${API_PREFIX}/tokens/:id`,
    {
      config: { allow: 'user' },
      schema: { params: byId, response: { 200: removedSchema } },
    },
    async ({ principal, params: { id } }) => {
      await accounts.revoke(id, (user) => user === principal.user || mayAs(principal, 'admin'));
      return { id, removed: true as const };
    },
  );
}
