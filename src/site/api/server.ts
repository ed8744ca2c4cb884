import { rm } from 'node:fs/promises';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import * as z from 'zod';
import { asCloudapError, CloudapError } from '../../base/errors.ts';
import { API_BODY_MAX_BYTES, API_CONNECTIONS_MAX, MIGRATIONS_LISTED } from '../constants.ts';
import { failSite } from '../errors.ts';
import type { Site } from '../site.ts';
import type { StoredVm } from '../vm/store.ts';
import { check } from './check.ts';
import { createVmSchema, migrateSchema, stopVmSchema } from './messages.ts';
import { sendLines } from './ndjson.ts';
import { pushRoutes } from './push-routes.ts';
import { statusOf } from './status-codes.ts';
import { templateRoutes } from './template-routes.ts';

const vmParams = z.object({ vm: z.string().min(1).max(64) });
const migrationParams = z.object({ id: z.string().min(1).max(64) });
const empty = z.union([z.undefined(), z.null(), z.strictObject({})]);

/** The API of one site, for its command line; listens on a Unix socket in a directory that only its user may enter. */
export function apiServer(site: Site): FastifyInstance {
  const server = fastify({
    logger: false,
    bodyLimit: API_BODY_MAX_BYTES,
    // an open stream of events ends with the server
    forceCloseConnections: true,
  });
  server.server.maxConnections = API_CONNECTIONS_MAX;
  server.setErrorHandler((error, _request, reply) => sendError(site, reply, error));
  server.setNotFoundHandler((request, reply) =>
    sendError(site, reply, failSite('API_NO_SUCH_ROUTE', `${request.method} ${request.url.slice(0, 200)}`)),
  );
  siteRoutes(server, site);
  vmRoutes(server, site);
  migrationRoutes(server, site);
  residueRoutes(server, site);
  templateRoutes(server, site);
  pushRoutes(server, site);
  return server;
}

/** Takes the place of a socket that a killed agent left: the lock on the data directory has said that none lives. */
export async function listenApi(server: FastifyInstance, socketPath: string): Promise<void> {
  await rm(socketPath, { force: true });
  await server.listen({ path: socketPath });
}

function siteRoutes(server: FastifyInstance, site: Site): void {
  server.get('/status', () => site.status());
  server.get('/sites', () => site.sites());
}

function vmRoutes(server: FastifyInstance, site: Site): void {
  const find = (request: FastifyRequest) => site.vms.store.get(check(vmParams, request.params, 'path').vm);

  server.get('/vms', async () => Promise.all(site.vms.store.list().map((vm) => site.view(vm))));
  server.post('/vms', async (request, reply) => {
    const sinceMs = performance.now();
    const { start, image, template, ...create } = check(createVmSchema, request.body);
    let vm: StoredVm;
    if (template !== undefined) vm = await site.vms.createFromTemplate(create.name, template);
    else {
      vm = await site.vms.create({ ...create, image: image ?? '' });
      if (start) await site.vms.start(vm);
    }
    const startedMs = site.vms.qemu(vm) ? performance.now() - sinceMs : undefined;
    return reply.code(201).send({ ...(await site.view(vm)), startedMs });
  });
  server.get('/vms/:vm', async (request) => site.view(find(request)));
  server.delete('/vms/:vm', async (request) => {
    const vm = find(request);
    await site.vms.remove(vm);
    return { id: vm.definition.id, removed: true };
  });
  server.post('/vms/:vm/start', async (request) => {
    check(empty, request.body);
    const vm = find(request);
    await site.vms.start(vm);
    return site.view(vm);
  });
  server.post('/vms/:vm/stop', async (request) => {
    const { force, graceMs } = check(stopVmSchema, request.body ?? {});
    const vm = find(request);
    await site.vms.stop(vm, { force, ...(graceMs === undefined ? {} : { graceMs }) });
    return site.view(vm);
  });
  server.get('/vms/:vm/screenshot', async (request, reply) => {
    const png = await site.vms.screenshot(find(request));
    return reply.type('image/png').send(png);
  });
}

function migrationRoutes(server: FastifyInstance, site: Site): void {
  const id = (request: FastifyRequest): string => check(migrationParams, request.params, 'path').id;

  server.get('/migrations', () => site.migrations.list(MIGRATIONS_LISTED));
  server.post('/migrations', async (request, reply) => {
    const view = await site.migrations.start(check(migrateSchema, request.body));
    return reply.code(201).send(view);
  });
  server.get('/migrations/:id', (request) => site.migrations.get(id(request)));
  server.delete('/migrations/:id', (request) => site.migrations.cancel(id(request)));
  server.post('/migrations/:id/take-back', (request) => site.migrations.takeBack(id(request)));
  server.get('/migrations/:id/events', async (request, reply) => {
    const migrationId = id(request);
    await site.migrations.get(migrationId);
    return sendLines(request, reply, (signal) => site.migrations.follow(migrationId, signal));
  });
}

function residueRoutes(server: FastifyInstance, site: Site): void {
  server.get('/residue', () => site.residue.list());
  server.delete('/residue/:vm', async (request) => {
    const { vm } = check(vmParams, request.params, 'path');
    const all = await site.residue.list();
    const id = all.find(({ vmId, vmName }) => vmId === vm || vmName === vm)?.vmId ?? vm;
    await site.residue.remove(id);
    return { id, removed: true };
  });
}

function sendError(site: Site, reply: FastifyReply, thrown: unknown): FastifyReply {
  const error = fromFastify(thrown);
  const status = statusOf(error.code);
  if (status >= 500) site.log.error({ err: thrown }, 'request failed');
  return reply.code(status).send(error.toJSON());
}

/** fastify's own refusals (no JSON, too large, wrong media type) as ours. */
function fromFastify(thrown: unknown): CloudapError {
  const { statusCode, message } = thrown as { statusCode?: number; message?: string };
  if (!(thrown instanceof CloudapError) && statusCode !== undefined && statusCode < 500) {
    return failSite('API_BAD_REQUEST', message ?? '', { cause: thrown, fields: { problems: [] } });
  }
  return asCloudapError(thrown);
}
