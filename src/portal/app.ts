import fastifyRateLimit from '@fastify/rate-limit';
import fastifySwagger from '@fastify/swagger';
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  createJsonSchemaTransform,
  hasZodFastifySchemaValidationErrors,
  serializerCompiler,
  validatorCompiler,
} from 'fastify-type-provider-zod';
import { randomUUID } from 'node:crypto';
import { CloudapError, asCloudapError } from '../base/errors.ts';
import type { Center } from '../center/center.ts';
import type { TlsMaterial } from '../link/tls.ts';
import { failSite } from '../site/errors.ts';
import { VERSION } from '../site/version.ts';
import { LOCAL, requireRole } from './auth/principal.ts';
import { PORTAL_BODY_MAX_BYTES, PORTAL_CONNECTIONS_MAX, PORTAL_REQUESTS_PER_MINUTE } from './constants.ts';
import { failPortal } from './errors.ts';
import { makeApp, type App, type Portal } from './portal.ts';
import { registerRoutes } from './routes/index.ts';
import { statusOf } from './status-codes.ts';

/** The API: for the center's own administrator (a Unix socket, `local`), or over HTTPS for whoever has a token. */
export async function portalApp(
  portal: Portal,
  access: { local: true } | { local: false; tls: TlsMaterial },
): Promise<App> {
  const { accounts, metrics, center, requestsPerMinute = PORTAL_REQUESTS_PER_MINUTE } = portal;
  const app = makeApp(
    {
      logger: false,
      bodyLimit: PORTAL_BODY_MAX_BYTES,
      forceCloseConnections: true,
      genReqId: () => randomUUID(),
    },
    access.local
      ? undefined
      : { cert: access.tls.cert, key: access.tls.key, minVersion: 'TLSv1.3', handshakeTimeout: 10_000 },
  );
  app.server.maxConnections = PORTAL_CONNECTIONS_MAX;
  app.setValidatorCompiler(validatorCompiler);
  app.setSerializerCompiler(serializerCompiler);
  app.setErrorHandler((thrown, request, reply) => sendError(center, request, reply, thrown));
  if (!access.local)
    await app.register(fastifyRateLimit, {
      max: requestsPerMinute,
      timeWindow: 60_000,
      errorResponseBuilder: () => failPortal('PORTAL_BUSY', 'too many requests from this address'),
    });
  app.setNotFoundHandler((request, reply) =>
    sendError(
      center,
      request,
      reply,
      failSite('API_NO_SUCH_ROUTE', `${request.method} ${request.url.slice(0, 200)}`),
    ),
  );
  await app.register(fastifySwagger, {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'CloudAP center', version: VERSION },
      components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer' } } },
    },
    transform: createJsonSchemaTransform({ zodToJsonConfig: { target: 'draft-2020-12' } }),
  });
  app.addHook('onRoute', (route) => {
    const allow = route.config?.allow;
    if (allow === undefined) throw new Error(`${String(route.method)} ${route.url} says not who may call it`);
    if (route.schema) {
      route.schema.security = allow === 'public' ? [] : [{ bearer: [] }];
      route.schema.description = `${route.schema.description ?? ''} For: ${allow}.`.trim();
    }
  });
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id).header('cache-control', 'no-store');
    const { allow = 'admin' } = request.routeOptions.config;
    if (access.local) request.principal = LOCAL;
    else if (allow !== 'public' && !request.is404) {
      request.principal = await accounts.principalOf(request.headers.authorization);
      requireRole(request.principal, allow);
    }
  });
  app.addHook('onResponse', (request, reply, done) => {
    const { url = 'none' } = request.routeOptions;
    const labels = { method: request.method, route: url, status: `${reply.statusCode}` };
    metrics.requests.observe(labels, reply.elapsedTime / 1000);
    center.log.debug(
      { id: request.id, ...labels, user: request.principal?.user, ms: Math.round(reply.elapsedTime) },
      'request',
    );
    done();
  });
  registerRoutes(app, portal);
  return app;
}

function sendError(
  center: Center,
  request: FastifyRequest,
  reply: FastifyReply,
  thrown: unknown,
): FastifyReply {
  const error = asApiError(thrown);
  const { statusCode = 500 } = thrown as { statusCode?: number };
  const foreign = !(thrown instanceof CloudapError) && statusCode >= 400 && statusCode < 500;
  const status = foreign && error.code === 'API_BAD_REQUEST' ? statusCode : statusOf(error.code);
  const { id } = request;
  if (status >= 500) center.log.error({ err: thrown, id }, 'request failed');
  else if (status === 401 || status === 403 || status === 429)
    center.log.warn({ id, code: error.code, from: request.ip, url: request.routeOptions.url }, 'refused');
  return reply.code(status).send({ ...error.toJSON(), requestId: id });
}

/** What Fastify and zod refuse, in our words. */
function asApiError(thrown: unknown): CloudapError {
  if (hasZodFastifySchemaValidationErrors(thrown)) {
    const problems = thrown.validation.slice(0, 16).map(({ instancePath, message = '' }) => ({
      field: instancePath.slice(1).replaceAll('/', '.') || (thrown.validationContext ?? 'body'),
      problem: message,
    }));
    const text = problems.map(({ field, problem }) => `${field}: ${problem}`).join('; ');
    return failSite('API_BAD_REQUEST', text.slice(0, 1000), { fields: { problems } });
  }
  const { statusCode = 500, message = '' } = thrown as { statusCode?: number; message?: string };
  if (!(thrown instanceof CloudapError) && statusCode < 500)
    return failSite('API_BAD_REQUEST', message, { cause: thrown, fields: { problems: [] } });
  return asCloudapError(thrown);
}
