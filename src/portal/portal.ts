import fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import type { Center } from '../center/center.ts';
import type { Role } from '../control/messages.ts';
import type { Accounts } from './auth/accounts.ts';
import type { Principal } from './auth/principal.ts';
import type { EventHub } from './events.ts';
import type { Metrics } from './metrics.ts';
import type { Tasks } from './tasks.ts';

/** Who may call a route: the least role, or `public`. A route without it does not start. */
export type Allow = Role | 'public';

declare module 'fastify' {
  interface FastifyContextConfig {
    allow?: Allow;
  }
  interface FastifyRequest {
    principal: Principal;
  }
}

/** What the routes work with; one for all addresses that the API has. */
export interface Portal {
  readonly center: Center;
  readonly accounts: Accounts;
  readonly tasks: Tasks;
  readonly events: EventHub;
  readonly metrics: Metrics;
  readonly requestsPerMinute?: number;
}

const untyped = (options: FastifyServerOptions, https: object | undefined): FastifyInstance =>
  // one type for both: routes do not care how they are reached
  fastify((https ? { ...options, https } : options) as FastifyServerOptions);

export const makeApp = (options: FastifyServerOptions, https: object | undefined) =>
  untyped(options, https).withTypeProvider<ZodTypeProvider>();
export type App = ReturnType<typeof makeApp>;
