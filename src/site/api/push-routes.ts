import type { FastifyInstance, FastifyRequest } from 'fastify';
import * as z from 'zod';
import type { Site } from '../site.ts';
import { check } from './check.ts';
import { sendLines } from './ndjson.ts';
import { pushSchema } from './push-messages.ts';

const pushParams = z.object({ id: z.string().min(1).max(64) });

export function pushRoutes(server: FastifyInstance, site: Site): void {
  const { pushes } = site;
  const id = (request: FastifyRequest): string => check(pushParams, request.params, 'path').id;

  server.get('/pushes', () => pushes.list());
  server.post('/pushes', async (request, reply) =>
    reply.code(201).send(await pushes.start(check(pushSchema, request.body))),
  );
  server.get('/pushes/:id', (request) => pushes.get(id(request)));
  server.delete('/pushes/:id', (request) => pushes.cancel(id(request)));
  server.get('/pushes/:id/events', (request, reply) => {
    const pushId = id(request);
    pushes.get(pushId);
    return sendLines(request, reply, (signal) => pushes.follow(pushId, signal));
  });
}
