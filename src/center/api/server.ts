import { randomBytes, randomUUID } from 'node:crypto';
import { rm } from 'node:fs/promises';
import fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import * as z from 'zod';
import { asCloudapError, CloudapError } from '../../base/errors.ts';
import { deviceIdSchema, nodeIdSchema, placedSchema, type VmRecord } from '../../control/messages.ts';
import { request } from '../../control/requests.ts';
import { hostSubject, siteSubject, token } from '../../control/subjects.ts';
import { vmViewSchema } from '../../host/messages.ts';
import { check } from '../../site/api/check.ts';
import { sendLines } from '../../site/api/ndjson.ts';
import { API_BODY_MAX_BYTES, API_CONNECTIONS_MAX } from '../../site/constants.ts';
import { failSite } from '../../site/errors.ts';
import { signDeviceToken } from '../../mobility/device-token.ts';
import { newVmId } from '../../site/ids.ts';
import { VERSION } from '../../site/version.ts';
import type { Center } from '../center.ts';
import { MOVES_LISTED, VM_CREATE_TIMEOUT_MS, VM_REQUEST_TIMEOUT_MS } from '../constants.ts';
import { failCenter } from '../errors.ts';
import { followMove } from './follow-move.ts';
import { scheduleRoutes } from './schedule-routes.ts';
import {
  createCenterVmSchema,
  createMoveSchema,
  createTokenSchema,
  deviceTokenSchema,
  revokeSchema,
  postPresenceSchema,
  putDeviceSchema,
  putSiteSchema,
  type CenterStatus,
  type CenterVm,
  type HostView,
  type MoveAnswer,
} from './messages.ts';
import { statusOf } from './status-codes.ts';

const byId = z.object({ id: z.string().min(1).max(128) });

/** The center's API for its operator on the same machine: a Unix socket in a directory that only its user may enter. */
export async function serveCenter(center: Center, socketPath: string): Promise<FastifyInstance> {
  const server = fastify({ logger: false, bodyLimit: API_BODY_MAX_BYTES, forceCloseConnections: true });
  server.server.maxConnections = API_CONNECTIONS_MAX;
  server.setErrorHandler((error, _request, reply) => sendError(center, reply, error));
  server.setNotFoundHandler((request, reply) =>
    sendError(center, reply, failSite('API_NO_SUCH_ROUTE', `${request.method} ${request.url.slice(0, 200)}`)),
  );
  lookRoutes(server, center);
  vmRoutes(server, center);
  moveRoutes(server, center);
  presenceRoutes(server, center);
  registryRoutes(server, center);
  scheduleRoutes(server, center);
  await rm(socketPath, { force: true });
  await server.listen({ path: socketPath });
  return server;
}

function lookRoutes(server: FastifyInstance, { config, fleet, moves, nats, plane }: Center): void {
  const startedAtMs = Date.now();
  server.get('/status', (): CenterStatus => {
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
  });
  server.get('/sites', () => fleet.sites());
  server.put('/sites/:id', async (request) => {
    const site = check(nodeIdSchema, check(byId, request.params, 'path').id, 'path');
    const { label, strategy } = check(putSiteSchema, request.body ?? {});
    const before = await plane.buckets.sites.get(site);
    const tier = site === config.id ? ('center' as const) : ('ap' as const);
    const createdAtMs = before?.value.createdAtMs ?? Date.now();
    const draining = before?.value.draining ?? [];
    const record = { version: 1 as const, site, tier, label, strategy, draining, createdAtMs };
    await plane.buckets.sites.put(site, record);
    return record;
  });
  server.get('/hosts', (): HostView[] =>
    fleet.hosts().map(({ host, site, alive, draining, heartbeat, inventory }) => ({
      host,
      site,
      alive,
      draining,
      heartbeat,
      inventory: inventory ?? null,
    })),
  );
}

function vmRoutes(server: FastifyInstance, center: Center): void {
  const { fleet, follow, plane } = center;
  const view = (vm: VmRecord): CenterVm => ({
    vm,
    assignment: fleet.assignment(vm.vm) ?? null,
    decision: follow.decision(vm.vm) ?? null,
  });
  server.get('/vms', () => fleet.vms().map(view));
  server.get('/vms/:id', (request) => view(findVm(center, check(byId, request.params, 'path').id)));
  server.post('/vms', async (request, reply) =>
    reply.code(201).send(await createVm(center, check(createCenterVmSchema, request.body))),
  );
  for (const what of ['start', 'stop'] as const)
    server.post(`/vms/:id/${what}`, async (asked) => {
      const { vm, host } = findVm(center, check(byId, asked.params, 'path').id);
      const force = z.object({ force: z.boolean().default(false) }).safeParse(asked.body ?? {}).data?.force;
      const params = what === 'stop' ? { vm, force: force ?? false } : { vm };
      return request(plane.connection, hostSubject(host, `vm-${what}`), params, vmViewSchema, {
        timeoutMs: VM_REQUEST_TIMEOUT_MS,
      });
    });
  server.delete('/vms/:id', async (asked) => {
    const { vm, host } = findVm(center, check(byId, asked.params, 'path').id);
    await request(plane.connection, hostSubject(host, 'vm-remove'), { vm }, z.unknown());
    await plane.buckets.assignments.remove(vm);
    return { id: vm, removed: true };
  });
}

function findVm({ fleet }: Center, reference: string): VmRecord {
  const vm = fleet.findVm(reference);
  if (!vm) throw failCenter('MOVE_VM_UNKNOWN', reference);
  return vm;
}

/** Reserves a host of the home site, has the VM made there, and notes whose it is. */
async function createVm(
  { config, fleet, plane }: Center,
  wanted: z.infer<typeof createCenterVmSchema>,
): Promise<unknown> {
  const { name, user, homeSite = config.id, follow, image, template, memoryMiB, cpus } = wanted;
  if (!fleet.site(homeSite)) throw failCenter('MOVE_SITE_UNKNOWN', homeSite);
  if (fleet.findVm(name)?.name === name) throw failCenter('VM_NAME_IN_USE', name);
  const vm = newVmId();
  // hosts know images by name and digest; what is to be reserved is known once it is resolved there
  const digest = image ?? template ?? '';
  const host = await placeNew({ fleet, plane }, homeSite, vm, digest, memoryMiB ?? 0, cpus ?? 1);
  try {
    const made = await request(
      plane.connection,
      hostSubject(host, 'vm-create'),
      {
        vm,
        name,
        ...(image === undefined ? {} : { image }),
        ...(template === undefined ? {} : { template }),
        ...(memoryMiB === undefined ? {} : { memoryMiB }),
        ...(cpus === undefined ? {} : { cpus }),
      },
      vmViewSchema,
      { id: vm, timeoutMs: VM_CREATE_TIMEOUT_MS },
    );
    const createdAtMs = Date.now();
    await plane.buckets.assignments.put(vm, { version: 1, vm, name, user, homeSite, follow, createdAtMs });
    return made;
  } finally {
    await request(plane.connection, siteSubject(homeSite, 'release'), { id: vm, host }, z.unknown()).catch(
      () => {},
    );
  }
}

async function placeNew(
  { fleet, plane }: Pick<Center, 'fleet' | 'plane'>,
  site: string,
  vm: string,
  image: string,
  memoryMiB: number,
  cpus: number,
): Promise<string> {
  const digest = /^[0-9a-f]{64}$/.test(image) ? image : undefined;
  if (digest === undefined) {
    // by name: any host that is alive and roomy; it says itself if it does not have the image
    const [host] = fleet
      .hosts(site)
      .filter(({ alive, draining }) => alive && !draining)
      .toSorted((a, b) => free(b) - free(a));
    if (!host) throw failCenter('SITE_HAS_NO_HOST', site);
    return host.host;
  }
  const place = { id: vm, vm, cpus, memoryMiB, diskMiB: 0, accelerator: null, image: digest };
  return (await request(plane.connection, siteSubject(site, 'place'), place, placedSchema)).host;
}

const free = ({
  heartbeat,
}: {
  heartbeat: { capacity: { memoryMiB: number }; used: { memoryMiB: number } };
}) => heartbeat.capacity.memoryMiB - heartbeat.used.memoryMiB;

function moveRoutes(server: FastifyInstance, center: Center): void {
  const { moves } = center;
  const answer = (id: string): MoveAnswer => {
    const { record, migration } = moves.get(id);
    return { record, migration: migration ?? null };
  };
  server.get('/moves', () =>
    moves
      .list()
      .slice(0, MOVES_LISTED)
      .map(({ record, migration }) => ({ record, migration: migration ?? null })),
  );
  server.get('/moves/:id', (request) => answer(check(byId, request.params, 'path').id));
  server.get('/moves/:id/events', (request, reply) => {
    const { id } = check(byId, request.params, 'path');
    moves.get(id);
    return sendLines(request, reply, (signal) => followMove(moves, id, signal));
  });
  server.post('/moves', async (request, reply) => {
    const { vm, toSite, toHost } = check(createMoveSchema, request.body);
    const found = findVm(center, vm);
    const record = await moves.request({
      vm: found.vm,
      toSite,
      ...(toHost === undefined ? {} : { toHost }),
      user: center.fleet.assignment(found.vm)?.user ?? null,
      cause: 'request',
      reason: 'asked for by an operator',
    });
    return reply.code(201).send({ record, migration: null } satisfies MoveAnswer);
  });
  server.delete('/moves/:id', async (request) => {
    const { id } = check(byId, request.params, 'path');
    await moves.abort(id, 'asked for by an operator');
    return answer(id);
  });
}

function presenceRoutes(server: FastifyInstance, { plane, fleet, tracker, tls }: Center): void {
  const deviceOf = (params: unknown): string =>
    check(deviceIdSchema, check(byId, params, 'path').id, 'path').toLowerCase();
  server.get('/devices', async () =>
    [...(await plane.buckets.devices.all()).values()].map(({ device, user }) => ({ device, user })),
  );
  server.get('/devices/strangers', () => tracker.strangers());
  server.put('/devices/:id', async (request) => {
    const device = deviceOf(request.params);
    const { user } = check(putDeviceSchema, request.body);
    await plane.buckets.devices.put(token(device), { version: 1, device, user, addedAtMs: Date.now() });
    return { device, user };
  });
  server.post('/devices/:id/token', async (request) => {
    const device = deviceOf(request.params);
    const expiresAtMs = Date.now() + check(deviceTokenSchema, request.body ?? {}).ttlMs;
    return { device, token: await signDeviceToken(tls, device, expiresAtMs), expiresAtMs };
  });
  server.delete('/devices/:id', async (request) => {
    const device = deviceOf(request.params);
    await plane.buckets.devices.remove(token(device));
    return { id: device, removed: true };
  });
  server.post('/presence', async (request, reply) => {
    const { device, site, kind } = check(postPresenceSchema, request.body);
    if (!fleet.site(site)) throw failCenter('MOVE_SITE_UNKNOWN', site);
    const id = randomUUID();
    await plane.publishPresence({
      version: 1,
      id,
      device: device.toLowerCase(),
      site,
      kind,
      source: 'api',
      atMs: Date.now(),
    });
    return reply.code(202).send({ id });
  });
  server.get('/users', async () => [...(await plane.buckets.whereabouts.all()).values()]);
}

function registryRoutes(server: FastifyInstance, { registry }: Center): void {
  server.get('/nodes', () => registry.nodes());
  server.get('/enrolments', () => registry.tokens());
  server.post('/enrolments', async (request, reply) =>
    reply.code(201).send(await registry.createToken(check(createTokenSchema, request.body))),
  );
  server.delete('/enrolments/:id', async (request) => {
    const { id } = check(byId, request.params, 'path');
    await registry.removeToken(id);
    return { id, removed: true };
  });
  server.post('/revocations', (request) => registry.revoke(check(revokeSchema, request.body)));
}

function sendError(center: Center, reply: FastifyReply, thrown: unknown): FastifyReply {
  const { statusCode, message } = thrown as { statusCode?: number; message?: string };
  const error =
    !(thrown instanceof CloudapError) && statusCode !== undefined && statusCode < 500
      ? failSite('API_BAD_REQUEST', message ?? '', { cause: thrown, fields: { problems: [] } })
      : asCloudapError(thrown);
  const status = statusOf(error.code);
  if (status >= 500) center.log.error({ err: thrown, id: randomBytes(4).toString('hex') }, 'request failed');
  return reply.code(status).send(error.toJSON());
}
