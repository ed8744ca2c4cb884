import { randomBytes } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as z from 'zod';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import { errorCode } from '../../src/base/errors.ts';
import { Center } from '../../src/center/center.ts';
import { loadCenterConfig } from '../../src/center/config.ts';
import { makeCenter } from '../../src/center/setup/system.ts';
import { portalApp } from '../../src/portal/app.ts';
import { Accounts } from '../../src/portal/auth/accounts.ts';
import { hashPassword, verifyPassword } from '../../src/portal/auth/password.ts';
import { localPortal, remotePortal } from '../../src/portal/client.ts';
import { EventHub } from '../../src/portal/events.ts';
import { credentialAnswerSchema, meSchema, taskViewSchema } from '../../src/portal/messages.ts';
import { Metrics } from '../../src/portal/metrics.ts';
import type { App } from '../../src/portal/portal.ts';
import { servePortal } from '../../src/portal/server.ts';
import { Tasks } from '../../src/portal/tasks.ts';
import type { ApiClient } from '../../src/site/api/client.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

const log = pino({ level: 'silent' });
const codeOf = (promise: Promise<unknown>): Promise<string> => promise.then(() => 'none', errorCode);
const PASSWORD = 'correct horse battery';

let dir: TempDir;
let center: Center;
let portal: AsyncDisposable;
let local: ApiClient;
let port: number;
let caFile: string;
/** Logged in, by user. */
const clients = new Map<string, ApiClient>();
const tokens = new Map<string, string>();

/** A real center with its real nats-server, without hosts: what the fleet has is written as hosts would write it. */
beforeAll(async () => {
  dir = await tempDir();
  await makeCenter({ dir: dir.path, port: freePort });
  const config = loadCenterConfig(dir.file('center/center.yaml'));
  center = await Center.start(config, log);
  port = await freePort();
  const socket = join(config.runtimeDir, 'center.sock');
  portal = await servePortal(
    center,
    { socket, listen: { host: '127.0.0.1', port } },
    { requestsPerMinute: 100_000 },
  );
  local = localPortal(socket);
  caFile = config.tls.ca;
  for (const [user, role] of [
    ['root', 'admin'],
    ['olga', 'operator'],
    ['ann', 'user'],
    ['bob', 'user'],
  ] as const) {
    await local.json('POST', '/accounts', z.unknown(), { body: { user, role, password: PASSWORD } });
    const { token } = await login(user);
    tokens.set(user, token);
    clients.set(user, await remote(token));
  }
  for (const [i, user] of ['ann', 'ann', 'bob'].entries()) await vmOf(i, user);
  await local.json('PUT', '/devices/phone-ann', z.unknown(), { body: { user: 'ann' } });
  await local.json('PUT', '/devices/phone-bob', z.unknown(), { body: { user: 'bob' } });
  while (center.fleet.vms().length < 3 || !center.fleet.assignment(vm(2))) await sleep(20);
});
afterAll(async () => {
  await portal?.[Symbol.asyncDispose]();
  await center?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

const remote = (token?: string): Promise<ApiClient> =>
  remotePortal({ host: '127.0.0.1', port, caFile, center: 'center', token });
const login = async (user: string, password = PASSWORD): Promise<{ token: string }> =>
  (await remote()).json('POST', '/sessions', credentialAnswerSchema, { body: { user, password } });
const as = (user: string): ApiClient => clients.get(user) ?? local;
const vm = (i: number): string => `vm-00000000000${i}`;

async function vmOf(i: number, user: string): Promise<void> {
  const { buckets } = center.plane;
  const common = { version: 1 as const, vm: vm(i), name: `desk-${i}` };
  await buckets.assignments.put(vm(i), { ...common, user, homeSite: 'ap1', createdAtMs: 1 });
  await buckets.vms.put(`ap1.ap1-h1.${vm(i)}`, {
    ...common,
    host: 'ap1-h1',
    site: 'ap1',
    status: 'stopped',
    generation: 1,
    ownership: 'owned',
    image: '0'.repeat(64),
    template: null,
    cpus: 1,
    memoryMiB: 64,
    diskMiB: 1,
    accelerator: 'tcg',
    machineType: 'pc',
    cpuModel: 'qemu64',
    migration: null,
    updatedAtMs: 1,
  });
}

/** As a program would, without the client: status and body. */
async function raw(
  method: string,
  path: string,
  options: { token?: string | undefined; body?: string; headers?: Record<string, string> } = {},
): Promise<{ status: number; text: string; headers: NodeJS.Dict<string | string[]> }> {
  const { token, body, headers } = options;
  return new Promise((resolve, reject) => {
    const asked = httpsRequest(
      {
        host: '127.0.0.1',
        port,
        method,
        path,
        rejectUnauthorized: false,
        agent: false,
        headers: {
          ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
      },
      (answer) => {
        let text = '';
        answer.on('data', (piece) => (text += String(piece)));
        answer.on('end', () => resolve({ status: answer.statusCode ?? 0, text, headers: answer.headers }));
        answer.on('error', reject);
      },
    );
    asked.on('error', reject);
    asked.end(body);
  });
}

describe('who may what', () => {
  interface Route {
    method: string;
    url: string;
    allow: string;
  }
  let routes: Route[];
  beforeAll(async () => {
    routes = [];
    const parts = {
      center,
      accounts: new Accounts(center.plane),
      tasks: new Tasks(),
      events: new EventHub(center),
      metrics: new Metrics(center),
    };
    const app: App = await portalApp(parts, { local: true });
    await app.ready();
    const described = JSON.parse(JSON.stringify(app.swagger())) as {
      paths: Record<string, Record<string, { description: string }>>;
    };
    for (const [url, methods] of Object.entries(described.paths))
      for (const [method, { description }] of Object.entries(methods))
        routes.push({
          method: method.toUpperCase(),
          url,
          allow: /For: (\w+)\.$/.exec(description)?.[1] ?? '',
        });
    await app.close();
    parts.events[Symbol.dispose]();
    parts.metrics[Symbol.dispose]();
  });
  const fill = (url: string): string =>
    url.replaceAll(/\{(\w+)\}/g, (_all, name: string) =>
      name === 'id' ? (url.includes('moves') ? 'mig-000000000000' : vm(0)) : 'x1',
    );

  test('every route says for whom it is, and is described', () => {
    expect(routes.length).toBeGreaterThan(35);
    for (const { allow, url } of routes)
      expect(['public', 'user', 'operator', 'admin'], url).toContain(allow);
    expect(
      routes
        .filter(({ allow }) => allow === 'public')
        .map(({ url }) => url)
        .toSorted(),
    ).toEqual(['/api/v1/openapi.json', '/api/v1/sessions', '/healthz', '/readyz']);
  });

  test('no route answers without a token, or with one that may less', async () => {
    const rank = ['public', 'user', 'operator', 'admin'];
    for (const { method, url, allow } of routes) {
      if (allow === 'public') continue;
      const path = fill(url);
      const body = method === 'GET' || method === 'DELETE' ? {} : { body: '{}' };
      const nobody = await raw(method, path, body);
      expect([nobody.status, JSON.parse(nobody.text)], `${method} ${url}`).toEqual([
        401,
        expect.objectContaining({ code: 'AUTH_REQUIRED' }),
      ]);
      for (const [user, role] of [
        ['ann', 'user'],
        ['olga', 'operator'],
      ] as const) {
        if (rank.indexOf(role) >= rank.indexOf(allow)) continue;
        const answer = await raw(method, path, { token: tokens.get(user), ...body });
        expect(answer.status, `${user}: ${method} ${url}`).toBe(403);
        expect(answer.text).toContain('AUTH_FORBIDDEN');
      }
    }
  });

  test('a user has their own VMs, moves and devices; those of others are not there', async () => {
    const named = async (user: string): Promise<string[]> =>
      (await as(user).all('/vms', z.object({ vm: z.object({ name: z.string() }) }))).map(
        (one) => one.vm.name,
      );
    expect(await named('ann')).toEqual(['desk-0', 'desk-1']);
    expect(await named('bob')).toEqual(['desk-2']);
    expect(await named('olga')).toHaveLength(3);
    expect(await codeOf(as('bob').json('GET', `/vms/${vm(0)}`, z.unknown()))).toBe('MOVE_VM_UNKNOWN');
    expect(await codeOf(as('bob').json('POST', `/vms/desk-0/stop`, z.unknown(), { body: {} }))).toBe(
      'MOVE_VM_UNKNOWN',
    );
    const move = { body: { vm: vm(0), toSite: 'center' } };
    expect(await codeOf(as('bob').json('POST', '/moves', z.unknown(), move))).toBe('MOVE_VM_UNKNOWN');
    const asked = await as('ann').json(
      'POST',
      '/moves',
      z.object({ record: z.object({ move: z.string() }) }),
      move,
    );
    expect(await codeOf(as('bob').json('GET', `/moves/${asked.record.move}`, z.unknown()))).toBe(
      'MOVE_UNKNOWN',
    );
    expect(await codeOf(as('bob').json('DELETE', `/moves/${asked.record.move}`, z.unknown()))).toBe(
      'MOVE_UNKNOWN',
    );
    await as('ann').json('GET', `/moves/${asked.record.move}`, z.unknown());
    const here = (device: string) => ({ body: { device, site: 'center' } });
    expect(await codeOf(as('bob').json('POST', '/presence', z.unknown(), here('phone-ann')))).toBe(
      'AUTH_FORBIDDEN',
    );
    expect(await codeOf(as('bob').json('POST', '/presence', z.unknown(), here('phone-bob')))).toBe('none');
    expect(await codeOf(as('bob').json('POST', '/devices/phone-ann/token', z.unknown(), { body: {} }))).toBe(
      'AUTH_FORBIDDEN',
    );
    expect(
      (await as('bob').all('/devices', z.object({ device: z.string() }))).map(({ device }) => device),
    ).toEqual(['phone-bob']);
  });
});

describe('logging in', () => {
  test('passwords are kept as argon2id, and nothing tells a wrong user from a wrong password', async () => {
    const account = (await center.plane.buckets.accounts.get('ann'))?.value;
    expect(account?.passwordHash).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/);
    expect(await codeOf(login('ann', 'wrong password'))).toBe('AUTH_WRONG');
    expect(await codeOf(login('nobody', PASSWORD))).toBe('AUTH_WRONG');
    const phc = await hashPassword(PASSWORD);
    expect(await verifyPassword(PASSWORD, phc)).toBe(true);
    expect(await verifyPassword(`${PASSWORD}x`, phc)).toBe(false);
    expect(await verifyPassword('', undefined)).toBe(false);
    expect(await codeOf(hashPassword('short'))).toBe('AUTH_PASSWORD');
    expect(await codeOf(hashPassword('x'.repeat(257)))).toBe('AUTH_PASSWORD');
  });

  test('too many wrong passwords shut out, for a while', async () => {
    const clock = { nowMs: Date.now() };
    const accounts = new Accounts(center.plane, () => clock.nowMs);
    for (let i = 0; i < 10; i += 1)
      expect(await codeOf(accounts.login('bob', 'wrong password', 'x'))).toBe('AUTH_WRONG');
    expect(await codeOf(accounts.login('bob', PASSWORD, 'y'))).toBe('AUTH_LOCKED');
    expect(await codeOf(accounts.login('ann', PASSWORD, 'x'))).toBe('AUTH_LOCKED');
    clock.nowMs += 16 * 60_000;
    expect(await codeOf(accounts.login('bob', PASSWORD, 'x'))).toBe('none');
  });

  test('a session ends by logging out, by a new password, by its time, and with its account', async () => {
    await local.json('POST', '/accounts', z.unknown(), { body: { user: 'eve', password: PASSWORD } });
    const me = async (token: string): Promise<string> =>
      codeOf((await remote(token)).json('GET', '/me', meSchema));
    const [one, two] = [await login('eve'), await login('eve')];
    expect(await me(one.token)).toBe('none');
    await (await remote(one.token)).json('DELETE', '/sessions/current', z.unknown());
    expect([await me(one.token), await me(two.token)]).toEqual(['AUTH_EXPIRED', 'none']);
    const body = { present: PASSWORD, next: 'another good one' };
    await (await remote(two.token)).json('PUT', '/me/password', z.unknown(), { body });
    expect(await me(two.token)).toBe('AUTH_EXPIRED');
    const { token } = await login('eve', body.next);
    const later = new Accounts(center.plane, () => Date.now() + 13 * 60 * 60_000);
    expect(await codeOf(later.principalOf(`Bearer ${token}`))).toBe('AUTH_EXPIRED');
    await local.json('PATCH', '/accounts/eve', z.unknown(), { body: { disabled: true } });
    expect([await me(token), await codeOf(login('eve', body.next))]).toEqual(['AUTH_EXPIRED', 'AUTH_WRONG']);
    await local.json('PATCH', '/accounts/eve', z.unknown(), { body: { disabled: false } });
    expect(await me(token)).toBe('none');
    await local.json('DELETE', '/accounts/eve', z.unknown());
    expect(await me(token)).toBe('AUTH_EXPIRED');
  });

  test('a token of a machine may at most what its user may now, is listed without its secret, and revoked', async () => {
    const made = await as('root').json('POST', '/tokens', credentialAnswerSchema, {
      body: { name: 'monitor', user: 'olga', role: 'admin' },
    });
    expect(made.view).toMatchObject({ user: 'olga', role: 'operator', kind: 'token' });
    const client = await remote(made.token);
    expect(await client.json('GET', '/me', meSchema)).toEqual({
      user: 'olga',
      role: 'operator',
      via: 'token',
    });
    await local.json('PATCH', '/accounts/olga', z.unknown(), { body: { role: 'user' } });
    expect(await codeOf(client.json('GET', '/status', z.unknown()))).toBe('AUTH_FORBIDDEN');
    await local.json('PATCH', '/accounts/olga', z.unknown(), { body: { role: 'operator' } });
    expect(await codeOf(as('ann').json('DELETE', `/tokens/${made.view.id}`, z.unknown()))).toBe(
      'CREDENTIAL_UNKNOWN',
    );
    const body = { name: 'x', user: 'olga' };
    expect(await codeOf(as('ann').json('POST', '/tokens', z.unknown(), { body }))).toBe('AUTH_FORBIDDEN');
    expect((await raw('GET', '/api/v1/tokens', { token: tokens.get('root') })).text).not.toMatch(
      /secret|cap_/i,
    );
    await as('olga').json('DELETE', `/tokens/${made.view.id}`, z.unknown());
    expect(await codeOf(client.json('GET', '/me', meSchema))).toBe('AUTH_EXPIRED');
  });

  test.each(['', 'x', 'cap_', `cap_${'0'.repeat(16)}_${'A'.repeat(43)}`, 'A'.repeat(5_000)])(
    'is not done by %j',
    async (token) => {
      const { status, text } = await raw('GET', '/api/v1/me', { token });
      expect(status).toBe(401);
      expect(text).toMatch(/"code":"AUTH_(REQUIRED|EXPIRED)"/);
    },
  );

  test('the socket is for the center’s own user', async () => {
    const { mode } = await stat(join(center.config.runtimeDir, 'center.sock'));
    expect(mode & 0o077).toBe(0);
    expect(await local.json('GET', '/me', meSchema)).toEqual({ user: 'local', role: 'admin', via: 'socket' });
  });
});

describe('requests', () => {
  const token = (): string | undefined => tokens.get('root');
  test.each([
    ['no JSON', 'POST', '/api/v1/moves', '{', 400, 'API_BAD_REQUEST'],
    ['another shape', 'POST', '/api/v1/moves', '{"vm":1}', 400, 'API_BAD_REQUEST'],
    ['more than it knows', 'POST', '/api/v1/revocations', '{"node":"x","more":1}', 400, 'API_BAD_REQUEST'],
    ['too long', 'POST', '/api/v1/moves', JSON.stringify({ vm: 'x'.repeat(70_000) }), 413, 'API_BAD_REQUEST'],
    ['of no route', 'GET', '/api/v1/nothing', undefined, 404, 'API_NO_SUCH_ROUTE'],
    ['a page too large', 'GET', '/api/v1/vms?limit=100000', undefined, 400, 'API_BAD_REQUEST'],
    ['a bad id', 'GET', '/api/v1/moves/x', undefined, 400, 'API_BAD_REQUEST'],
    ['of nobody', 'POST', '/api/v1/moves', '{"vm":"none","toSite":"ap1"}', 404, 'MOVE_VM_UNKNOWN'],
  ])(
    'that are %s get a code, a cause, a remedy and an id',
    async (_what, method, path, body, status, code) => {
      const answer = await raw(method, path, { token: token(), ...(body === undefined ? {} : { body }) });
      expect(answer.status).toBe(status);
      expect(JSON.parse(answer.text)).toMatchObject({
        code,
        message: expect.any(String) as string,
        remedy: expect.stringMatching(/.{10}/) as string,
        requestId: answer.headers['x-request-id'],
      });
    },
  );

  test('lists come in pages that do not overlap', async () => {
    const page = z.object({
      items: z.array(z.object({ vm: z.object({ name: z.string() }) })),
      next: z.string().nullable(),
    });
    const first = await as('root').json('GET', '/vms?limit=2', page);
    const second = await as('root').json('GET', `/vms?limit=2&cursor=${first.next}`, page);
    expect([...first.items, ...second.items].map((one) => one.vm.name)).toEqual([
      'desk-0',
      'desk-1',
      'desk-2',
    ]);
    expect(second.next).toBeNull();
  });

  test('a move is asked for once, however often', async () => {
    const body = { vm: 'desk-2', toSite: 'center', move: `mig-${randomBytes(6).toString('hex')}` };
    const schema = z.object({ record: z.object({ move: z.string(), requestedAtMs: z.number() }) });
    const [one, two] = [
      await as('olga').json('POST', '/moves', schema, { body }),
      await as('olga').json('POST', '/moves', schema, { body }),
    ];
    expect(two.record).toEqual(one.record);
  });

  test('long work is a task: asked for once, waited for, with its error', async () => {
    const body = { name: 'new', user: 'ann', image: 'ci', task: 'task-0123456789ab' };
    const task = await as('olga').json('POST', '/vms', taskViewSchema, { body });
    expect((await as('olga').json('POST', '/vms', taskViewSchema, { body })).startedAtMs).toBe(
      task.startedAtMs,
    );
    const ended = await as('olga').json('GET', `/tasks/${task.id}?waitMs=10000`, taskViewSchema);
    // there is no host
    expect(ended).toMatchObject({ state: 'failed', error: { code: 'SITE_HAS_NO_HOST' } });
    expect(await codeOf(as('ann').json('GET', `/tasks/${task.id}`, z.unknown()))).toBe('TASK_UNKNOWN');
    expect(await codeOf(as('olga').json('DELETE', `/tasks/${task.id}`, z.unknown()))).toBe(
      'TASK_NOT_ABORTABLE',
    );
  });

  test('are limited by address', async () => {
    const few = await freePort();
    const socket = dir.file('few.sock');
    await using _few = await servePortal(
      center,
      { socket, listen: { host: '127.0.0.1', port: few } },
      { requestsPerMinute: 2 },
    );
    const client = await remotePortal({
      host: '127.0.0.1',
      port: few,
      caFile,
      center: 'center',
      token: token(),
    });
    await client.json('GET', '/me', meSchema);
    await client.json('GET', '/me', meSchema);
    expect(await codeOf(client.json('GET', '/me', meSchema))).toBe('PORTAL_BUSY');
  });

  test('are refused by a client that does not know the center', async () => {
    const other = remotePortal({ host: '127.0.0.1', port, caFile, center: 'another' });
    expect(await codeOf((await other).json('GET', '/me', meSchema))).toBe('SITE_UNREACHABLE');
  });
});

describe('operation', () => {
  test('health and readiness for everybody, metrics for operators', async () => {
    expect((await raw('GET', '/healthz')).status).toBe(200);
    expect((await raw('GET', '/readyz')).status).toBe(200);
    const { text } = await raw('GET', '/metrics', { token: tokens.get('olga') });
    expect(text).toContain('cloudap_vms{site="ap1",status="stopped"} 3');
    expect(text).toMatch(
      /cloudap_http_request_seconds_count\{method="GET",route="\/healthz",status="200"\} [1-9]/,
    );
    expect(text).toContain('cloudap_moves_under_way');
    expect(text).toContain('cloudap_process_');
  });

  test('the API describes itself', async () => {
    const { text } = await raw('GET', '/api/v1/openapi.json');
    const described = JSON.parse(text) as { openapi: string; paths: Record<string, unknown> };
    expect(described.openapi).toBe('3.1.0');
    expect(Object.keys(described.paths)).toContain('/api/v1/moves/{id}');
    expect(text).toContain('"bearer"');
  });

  /** Reads events until `enough`. */
  async function events(
    user: string,
    lastId: string | undefined,
    enough: (text: string) => boolean,
  ): Promise<string> {
    return new Promise((resolve, reject) => {
      const asked = httpsRequest(
        {
          host: '127.0.0.1',
          port,
          path: '/api/v1/events',
          rejectUnauthorized: false,
          agent: false,
          headers: {
            authorization: `Bearer ${tokens.get(user)}`,
            ...(lastId === undefined ? {} : { 'last-event-id': lastId }),
          },
        },
        (answer) => {
          let text = '';
          answer.on('data', (piece) => {
            text += String(piece);
            if (!enough(text)) return;
            asked.destroy();
            resolve(text);
          });
          answer.on('error', () => {});
        },
      );
      asked.on('error', reject);
      asked.end();
    });
  }
  const idsIn = (text: string): string[] => [...text.matchAll(/^id: (\S+)$/gm)].map(([, id = '']) => id);

  test('events come as they happen, to whom they concern, and go on where one stopped', async () => {
    const begun = await events('ann', undefined, (text) => text.includes('event: reset'));
    const last = idsIn(begun).at(-1);
    for (const i of [0, 2]) {
      const key = `ap1.ap1-h1.${vm(i)}`;
      const record = (await center.plane.buckets.vms.get(key))?.value;
      if (record) await center.plane.buckets.vms.put(key, { ...record, status: 'paused' });
    }
    const anns = await events('ann', last, (text) => text.includes('"desk-0"'));
    expect(anns).not.toContain('reset');
    expect(anns).not.toContain('desk-2');
    const bobs = await events('bob', last, (text) => text.includes('"desk-2"'));
    expect(bobs).not.toContain('desk-0');
    const all = await events('olga', last, (text) => text.includes('"desk-0"') && text.includes('"desk-2"'));
    expect(new Set(idsIn(all)).size).toBe(idsIn(all).length);
    expect(await events('ann', 'ffffffff-1', (text) => text.includes('reset'))).toContain('event: reset');
  });
});
