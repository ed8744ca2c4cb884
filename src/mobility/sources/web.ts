import fastifyRateLimit from '@fastify/rate-limit';
import { createHash, timingSafeEqual } from 'node:crypto';
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import type * as z from 'zod';
import type { Logger } from 'pino';
import { asCloudapError, CloudapError } from '../../base/errors.ts';
import { sleep } from '../../base/async.ts';
import {
  PORTAL_DEVICES_MAX,
  PORTAL_SILENT_MS,
  PRESENCE_BODY_MAX_BYTES,
  PRESENCE_REQUESTS_PER_MINUTE,
} from '../constants.ts';
import { verifyDeviceToken } from '../device-token.ts';
import { failMobility } from '../errors.ts';
import { assocStaNotificationSchema, Associations } from './mec028.ts';
import { portalPage } from './portal-page.ts';
import type { PresenceSource, Report } from './source.ts';

export interface WebOptions {
  readonly listen: { host: string; port: number };
  /** Browsers of devices say that they are here. Tokens are checked with the CA. */
  readonly portal?: { ca: string; center: string } | undefined;
  /** ETSI MEC 028 notifications come to `/mec/<secret>/wai`. */
  readonly mec?: { secret: string; accessPoints: readonly string[] } | undefined;
  readonly log: Logger;
  readonly requestsPerMinute?: number;
  readonly silentMs?: number;
}

/** What comes over HTTP from the site's own network: browsers at the portal, and a MEC platform. One source, as it is one port. */
export function webSource(options: WebOptions): PresenceSource {
  return {
    name: 'web',
    async run(report, signal) {
      const { listen, portal, mec, log } = options;
      const server = await makeServer(options);
      const browsers = new Browsers(report, options.silentMs ?? PORTAL_SILENT_MS);
      if (portal) portalRoutes(server, portal, browsers);
      if (mec) mecRoutes(server, mec, report);
      try {
        await server.listen(listen);
        log.info({ ...listen }, 'presence service');
        while (!signal.aborted) {
          await sleep(browsers.silentMs / 10, signal).catch(() => {});
          browsers.sweep();
        }
      } finally {
        await server.close();
      }
    },
  };
}

async function makeServer({ log, requestsPerMinute }: WebOptions): Promise<FastifyInstance> {
  const server = fastify({ logger: false, bodyLimit: PRESENCE_BODY_MAX_BYTES, forceCloseConnections: true });
  await server.register(fastifyRateLimit, {
    max: requestsPerMinute ?? PRESENCE_REQUESTS_PER_MINUTE,
    timeWindow: 60_000,
  });
  server.setErrorHandler((thrown, request, reply) => {
    const { statusCode = 500, message = '' } = thrown as { statusCode?: number; message?: string };
    const foreign = !(thrown instanceof CloudapError) && statusCode < 500;
    const error = foreign ? failMobility('PRESENCE_BAD_REQUEST', message) : asCloudapError(thrown);
    log.info({ code: error.code, err: error.message, from: request.ip }, 'presence refused');
    return sendError(reply, error, foreign ? statusCode : (STATUS[error.code] ?? 500));
  });
  server.setNotFoundHandler((_request, reply) =>
    sendError(reply, failMobility('PRESENCE_BAD_REQUEST', 'no such path'), 404),
  );
  return server;
}

const STATUS: Readonly<Record<string, number>> = {
  PRESENCE_TOKEN: 401,
  PRESENCE_FORBIDDEN: 403,
  PRESENCE_BAD_REQUEST: 400,
};

const sendError = (reply: FastifyReply, error: CloudapError, status: number): FastifyReply =>
  reply.code(status).send(error.toJSON());

/** A browser is here while it says so, and for a moment more. */
class Browsers {
  readonly silentMs: number;
  readonly #report: Report;
  readonly #seen = new Map<string, number>();

  constructor(report: Report, silentMs: number) {
    this.#report = report;
    this.silentMs = silentMs;
  }

  here(device: string, address: string): void {
    const before = this.#seen.has(device);
    this.#seen.delete(device);
    this.#seen.set(device, performance.now());
    if (!before) this.#report({ device, kind: 'arrive', address });
    if (this.#seen.size > PORTAL_DEVICES_MAX) this.left(this.#seen.keys().next().value ?? '');
  }

  left(device: string): void {
    if (this.#seen.delete(device)) this.#report({ device, kind: 'leave' });
  }

  sweep(): void {
    const nowMs = performance.now();
    for (const [device, atMs] of this.#seen) {
      if (nowMs - atMs < this.silentMs) return;
      this.left(device);
    }
  }
}

function portalRoutes(
  server: FastifyInstance,
  trust: { ca: string; center: string },
  browsers: Browsers,
): void {
  server.get('/', (_request, reply) =>
    reply
      .type('text/html; charset=utf-8')
      .header(
        'content-security-policy',
        "default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'; style-src 'unsafe-inline'",
      )
      .header('referrer-policy', 'no-referrer')
      .send(portalPage),
  );
  const deviceOf = async (authorization: string | undefined): Promise<string> => {
    const [, token = ''] = /^Bearer (\S{1,4096})$/.exec(authorization ?? '') ?? [];
    return (await verifyDeviceToken(token, trust)).toLowerCase();
  };
  server.post('/here', async ({ headers, ip }) => {
    const device = await deviceOf(headers.authorization);
    browsers.here(device, ip);
    return { device, againWithinMs: browsers.silentMs / 3 };
  });
  server.delete('/here', async ({ headers }) => {
    const device = await deviceOf(headers.authorization);
    browsers.left(device);
    return { device };
  });
}

function mecRoutes(
  server: FastifyInstance,
  { secret, accessPoints }: { secret: string; accessPoints: readonly string[] },
  report: Report,
): void {
  const associations = new Associations(accessPoints);
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  const wanted = hash(secret);
  server.post<{ Params: { secret: string } }>('/mec/:secret/wai', async ({ params, body }, reply) => {
    if (!timingSafeEqual(hash(params.secret), wanted)) throw failMobility('PRESENCE_FORBIDDEN');
    associations.take(parse(assocStaNotificationSchema, body), report);
    return reply.code(204).send();
  });
}

function parse<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw failMobility('PRESENCE_BAD_REQUEST', `${issue?.path.join('.') || 'body'}: ${issue?.message ?? ''}`);
}
