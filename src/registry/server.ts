import fastifyRateLimit from '@fastify/rate-limit';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { TLSSocket } from 'node:tls';
import type * as z from 'zod';
import { asCloudapError, CloudapError, errorCode } from '../base/errors.ts';
import { certificateFacts, type CertificateFacts } from '../link/pki.ts';
import type { TlsMaterial } from '../link/tls.ts';
import {
  ENROL_BODY_MAX_BYTES,
  ENROL_CONNECTIONS_MAX,
  ENROL_REQUESTS_PER_MINUTE,
  ENROL_TIMEOUT_MS,
} from './constants.ts';
import { failRegistry } from './errors.ts';
import { enrolRequestSchema, renewRequestSchema, type EnrolAnswer } from './messages.ts';
import type { Registry } from './registry.ts';

export interface EnrolServerOptions {
  readonly registry: Registry;
  readonly listen: { host: string; port: number };
  readonly tls: TlsMaterial;
  readonly center: string;
  /** host:port of the control plane, as nodes reach it. */
  readonly servers: readonly string[];
  readonly requestsPerMinute?: number;
}

/** Where nodes enrol and renew: HTTPS, the only port of the center that takes who has no certificate yet. */
export async function serveEnrolment(options: EnrolServerOptions): Promise<FastifyInstance> {
  const { registry, listen, tls, center, servers } = options;
  const server = fastify({
    logger: false,
    bodyLimit: ENROL_BODY_MAX_BYTES,
    connectionTimeout: ENROL_TIMEOUT_MS,
    requestTimeout: ENROL_TIMEOUT_MS,
    forceCloseConnections: true,
    https: {
      ca: tls.ca,
      cert: tls.cert,
      key: tls.key,
      minVersion: 'TLSv1.3',
      requestCert: true,
      // who enrols has none; /v1/renew looks for itself
      rejectUnauthorized: false,
    },
  });
  server.server.maxConnections = ENROL_CONNECTIONS_MAX;
  await server.register(fastifyRateLimit, {
    max: options.requestsPerMinute ?? ENROL_REQUESTS_PER_MINUTE,
    timeWindow: 60_000,
    errorResponseBuilder: () => failRegistry('ENROL_TOO_MANY'),
  });
  server.setErrorHandler((thrown, request, reply) => sendError(registry, thrown, request, reply));
  server.setNotFoundHandler((request, reply) =>
    sendError(registry, failRegistry('ENROL_BAD_REQUEST', request.method), request, reply),
  );
  const answer = (cert: string, node: Pick<EnrolAnswer, 'node' | 'role' | 'site'>): EnrolAnswer => ({
    node: node.node,
    role: node.role,
    site: node.site,
    center,
    cert,
    servers: [...servers],
  });
  server.get('/v1/ca', () => ({ ca: registry.caCertificate }));
  server.post('/v1/enrol', async ({ body }) => {
    const { id, secret, request } = parse(enrolRequestSchema, body);
    const { cert, node } = await registry.enrol({ id, secret }, request);
    return answer(cert, node);
  });
  server.post('/v1/renew', async (asked) => {
    const shown = certificateOf(asked);
    const { request } = parse(renewRequestSchema, asked.body);
    const { cert, node } = await registry.renew(shown, request);
    return answer(cert, node);
  });
  await server.listen(listen);
  return server;
}

/** @throws NODE_REVOKED */
function certificateOf({ raw }: FastifyRequest): CertificateFacts {
  const socket = raw.socket as TLSSocket;
  const certificate = socket.authorized ? socket.getPeerX509Certificate() : undefined;
  if (!certificate) throw failRegistry('NODE_REVOKED', 'no certificate of this center was shown');
  return certificateFacts(certificate.toString());
}

function parse<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw failRegistry('ENROL_BAD_REQUEST', `${issue?.path.join('.') || 'body'}: ${issue?.message ?? ''}`);
}

const STATUS: Readonly<Record<string, number>> = {
  ENROL_TOKEN_UNKNOWN: 403,
  ENROL_TOKEN_EXPIRED: 403,
  ENROL_TOKEN_USED: 403,
  NODE_REVOKED: 403,
  ENROL_BAD_REQUEST: 400,
  LINK_PKI: 400,
  ENROL_TOO_MANY: 429,
  CONTROL_UNREACHABLE: 503,
};

function sendError(
  registry: Registry,
  thrown: unknown,
  request: FastifyRequest,
  reply: FastifyReply,
): FastifyReply {
  const { statusCode = 500, message = '' } = thrown as { statusCode?: number; message?: string };
  const foreign = !(thrown instanceof CloudapError) && statusCode < 500;
  const error = foreign ? failRegistry('ENROL_BAD_REQUEST', message) : asCloudapError(thrown);
  registry.refused(error, request.ip);
  return reply.code(foreign ? statusCode : (STATUS[errorCode(error)] ?? 500)).send(error.toJSON());
}
