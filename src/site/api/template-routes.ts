import type { FastifyInstance, FastifyRequest } from 'fastify';
import * as z from 'zod';
import type { Site } from '../site.ts';
import { check } from './check.ts';
import { sendLines } from './ndjson.ts';
import { buildTemplateSchema } from './template-messages.ts';

const templateParams = z.object({ template: z.string().min(1).max(256) });
const buildParams = z.object({ id: z.string().min(1).max(64) });

export function templateRoutes(server: FastifyInstance, site: Site): void {
  const { builds } = site;
  const id = (request: FastifyRequest): string => check(buildParams, request.params, 'path').id;

  server.get('/templates', () => site.templates());
  server.post('/templates', async (request, reply) =>
    reply.code(201).send(await builds.start(check(buildTemplateSchema, request.body))),
  );
  server.delete('/templates/:template', async (request) => ({
    ...(await site.removeTemplate(check(templateParams, request.params, 'path').template)),
    removed: true,
  }));
  server.get('/templates/builds', () => builds.list());
  server.get('/templates/builds/:id', (request) => builds.get(id(request)));
  server.delete('/templates/builds/:id', (request) => builds.cancel(id(request)));
  server.get('/templates/builds/:id/events', (request, reply) => {
    const buildId = id(request);
    builds.get(buildId);
    return sendLines(request, reply, (signal) => builds.follow(buildId, signal));
  });
}
