import * as z from 'zod';
import { VERSION } from '../../site/version.ts';
import { API_PREFIX } from '../constants.ts';
import type { App, Portal } from '../portal.ts';
import { owns } from '../auth/principal.ts';
import { failControl } from '../../control/errors.ts';
import { centerStatusSchema, type CenterStatus } from '../messages.ts';

const upSchema = z.object({ ok: z.literal(true) });

/** Health, readiness, metrics, events, the description of the API. */
export function operationRoutes(app: App, { center, metrics, events }: Portal): void {
  const { config, fleet, moves, nats, plane } = center;
  const startedAtMs = Date.now();
  app.get(
    '/healthz',
    {
      config: { allow: 'public' },
      schema: { description: 'The process lives.', response: { 200: upSchema } },
    },
    () => ({ ok: true as const }),
  );
  app.get(
    '/readyz',
    {
      config: { allow: 'public' },
      schema: { description: 'It reaches its records.', response: { 200: upSchema } },
    },
    async () => {
      if (plane.connection.isClosed()) throw failControl('CONTROL_UNREACHABLE', 'closed');
      await plane.buckets.sites.get(config.id);
      return { ok: true as const };
    },
  );
  app.get(
    '/metrics',
    { config: { allow: 'operator' }, schema: { description: 'For Prometheus.' } },
    async (_request, reply) =>
      reply.type(metrics.registry.contentType).send(await metrics.registry.metrics()),
  );
  app.get(
    `${API_PREFIX}/openapi.json`,
    { config: { allow: 'public' }, schema: { description: 'This description (OpenAPI 3.1).' } },
    (_request, reply) => reply.send(app.swagger()),
  );
  app.get(
    `${API_PREFIX}/status`,
    { config: { allow: 'operator' }, schema: { response: { 200: centerStatusSchema } } },
    (): CenterStatus => {
      const hosts = fleet.hosts();
      const alive = hosts.filter((host) => host.alive).length;
      return {
        id: config.id,
        version: VERSION,
        pid: process.pid,
        natsPid: nats?.pid ?? null,
        startedAtMs,
        sites: fleet.sites().length,
        hosts: { alive, silent: hosts.length - alive },
        vms: fleet.vms().length,
        moves: moves.list().filter(({ record }) => record.endedAtMs === null).length,
      };
    },
  );
  app.get(
    `${API_PREFIX}/events`,
    {
      config: { allow: 'user' },
      schema: {
        description:
          'Server-sent events `move`, `vm` and `host`, each with an id; `Last-Event-ID` goes on behind it. `reset`: something was missed, look at all anew.',
      },
    },
    (request, reply) => {
      const last = request.headers['last-event-id'];
      const { principal } = request;
      const stream = events.stream(typeof last === 'string' ? last.slice(0, 64) : undefined, ({ user }) =>
        owns(principal, user),
      );
      request.raw.once('close', () => stream.destroy());
      return reply.type('text/event-stream').send(stream);
    },
  );
}
