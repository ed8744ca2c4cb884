import { afterAll, beforeAll, expect, test } from 'vitest';
import * as z from 'zod';
import { CloudapError } from '../../src/base/errors.ts';
import { MESSAGE_MAX_BYTES } from '../../src/control/constants.ts';
import type { ControlPlane } from '../../src/control/plane.ts';
import { method, request, serveRequests } from '../../src/control/requests.ts';
import { hostSubject, presenceSubject, token, untoken } from '../../src/control/subjects.ts';
import { testNats, type TestNats } from '../kit/nats.ts';

let nats: TestNats;
let one: ControlPlane;
let two: ControlPlane;

beforeAll(async () => {
  nats = await testNats();
  one = await nats.plane('one');
  two = await nats.plane('two');
});
afterAll(() => nats[Symbol.asyncDispose]());

const site = (name: string, label = '') =>
  ({ version: 1, site: name, tier: 'ap', label, createdAtMs: 1 }) as const;

test('of two that create or change a record at once one wins, the other is told', async () => {
  const created = await Promise.allSettled(
    [one, two].map(({ buckets }) => buckets.sites.create('cas', site('cas'))),
  );
  expect(created.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  const { revision } = (await one.buckets.sites.get('cas')) ?? { revision: 0 };
  const changed = await Promise.allSettled([
    one.buckets.sites.update('cas', site('cas', 'one'), revision),
    two.buckets.sites.update('cas', site('cas', 'two'), revision),
  ]);
  const refused = [...created, ...changed].filter((result) => result.status === 'rejected');
  expect(refused.map(({ reason }) => (reason as CloudapError).code)).toEqual([
    'CONTROL_CONFLICT',
    'CONTROL_CONFLICT',
  ]);
});

test('a watch shows what is there, says when that was all, then each change', async () => {
  const ended = new AbortController();
  const seen: string[] = [];
  await one.buckets.devices.put(token('aa:bb'), { version: 1, device: 'aa:bb', user: 'ann', addedAtMs: 1 });
  for await (const { key, value, initial, complete } of two.buckets.devices.watch(ended.signal)) {
    if (key !== '') seen.push(`${value?.user ?? 'gone'} ${initial ? 'initial' : 'later'}`);
    if (complete)
      await one.buckets.devices.put(token('aa:bb'), {
        version: 1,
        device: 'aa:bb',
        user: 'bob',
        addedAtMs: 2,
      });
    else if (seen.length === 2) await one.buckets.devices.remove(token('aa:bb'));
    if (seen.length === 3) ended.abort();
  }
  expect(seen).toEqual(['ann initial', 'bob later', 'gone later']);
  expect(await two.buckets.devices.all()).toEqual(new Map());
});

test('what somebody else wrote into a bucket is ignored unless it is a record', async () => {
  const { js } = one;
  await js.publish('$KV.cloudap-sites.bad', '{"version":1}');
  await js.publish('$KV.cloudap-sites.worse', Buffer.from([0xff, 0x00]));
  expect(await two.buckets.sites.get('bad')).toBeUndefined();
  expect([...(await two.buckets.sites.all()).keys()]).not.toContain('worse');
});

test('a request has its effect once, however often it is sent', async () => {
  let runs = 0;
  using _served = serveRequests(
    two.connection,
    hostSubject('h1', '').slice(0, -1),
    { add: method(z.object({ n: z.int() }), ({ n }) => Promise.resolve((runs += n))) },
    () => {},
  );
  await two.connection.flush();
  const ask = (id: string) => request(one.connection, hostSubject('h1', 'add'), { n: 1 }, z.number(), { id });
  expect(await Promise.all([ask('a'), ask('a'), ask('b'), ask('a')])).toEqual([1, 1, 2, 1]);
  expect(runs).toBe(2);
});

test('requests that are not as they should be are refused with a code, and reported', async () => {
  const refused: string[] = [];
  using _served = serveRequests(
    two.connection,
    hostSubject('h2', '').slice(0, -1),
    { fail: method(z.object({ n: z.int() }), () => Promise.reject(new CloudapError('MINE', 'm', 'r'))) },
    (_subject, error) => refused.push(error.code),
  );
  await two.connection.flush();
  const ask = (name: string, params: unknown) =>
    request(one.connection, hostSubject('h2', name), params, z.unknown()).catch(
      (error: CloudapError) => error.code,
    );
  expect(await ask('fail', { n: 1 })).toBe('MINE');
  expect(await ask('fail', { n: 'x' })).toBe('CONTROL_BAD_REQUEST');
  expect(await ask('toString', {})).toBe('CONTROL_NO_SUCH_METHOD');
  expect(await ask('fail', { text: 'x'.repeat(MESSAGE_MAX_BYTES) })).toBe('CONTROL_TOO_LARGE');
  const raw = await one.connection.request(hostSubject('h2', 'fail'), 'not JSON', { timeout: 2000 });
  expect(raw.json()).toMatchObject({ ok: false, error: { code: 'CONTROL_BAD_REQUEST' } });
  expect(refused).toEqual(['MINE', 'CONTROL_BAD_REQUEST', 'CONTROL_NO_SUCH_METHOD', 'CONTROL_BAD_REQUEST']);
  expect(
    await request(one.connection, hostSubject('nobody', 'x'), {}, z.unknown()).catch(
      (e: CloudapError) => e.code,
    ),
  ).toBe('CONTROL_NO_ANSWER');
});

test('a server that was killed comes back with every record, and agents go on', async () => {
  await one.buckets.sites.put('kept', site('kept'));
  const ended = new AbortController();
  const begun = Promise.withResolvers<void>();
  const later = (async () => {
    for await (const { key, initial, complete } of two.buckets.sites.watch(ended.signal)) {
      if (complete) begun.resolve();
      if (!initial && key === 'after') return key;
    }
    return undefined;
  })();
  await begun.promise;
  await nats.crash();
  expect((await one.buckets.sites.get('kept'))?.value.site).toBe('kept');
  await one.buckets.sites.put('after', site('after'));
  expect(await later).toBe('after');
  ended.abort();
});

test('names of peers cannot widen a subject', () => {
  for (const text of ['aa:bb:cc', 'a.b', '*', '>', 'ä b', '=41', 'plain-1']) {
    expect(presenceSubject('ap1', text).split('.')).toHaveLength(5);
    expect(untoken(token(text))).toBe(text);
  }
});
