import { execFile } from 'node:child_process';
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import { STREAMS } from '../../src/control/plane.ts';
import { generateCa, issueSiteCertificate } from '../../src/link/pki.ts';
import { signDeviceToken, verifyDeviceToken } from '../../src/mobility/device-token.ts';
import { mobilityNotification, Notifier } from '../../src/mobility/mec021.ts';
import { PresencePublisher } from '../../src/mobility/publisher.ts';
import { Hook } from '../../src/mobility/sources/hook.ts';
import { hostapdSource } from '../../src/mobility/sources/hostapd.ts';
import { superviseSource, type Seen } from '../../src/mobility/sources/source.ts';
import { webSource } from '../../src/mobility/sources/web.ts';
import { silent, testNats } from '../kit/nats.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

const exec = promisify(execFile);
let dir: TempDir;
beforeAll(async () => {
  dir = await tempDir();
});
afterAll(() => dir[Symbol.asyncDispose]());
const until = async (what: () => boolean): Promise<void> => {
  while (!what()) await sleep(10);
};

describe('a hook', () => {
  test('passes each call on, whole, from many at once; and holds nobody up when nobody reads', async () => {
    await using hook = await Hook.make(dir.file('hook'), 'h');
    const stop = new AbortController();
    const calls: string[][] = [];
    const reading = (async () => {
      for await (const call of hook.calls(stop.signal)) calls.push(call.slice(0, -1));
    })();
    await Promise.all(
      Array.from({ length: 20 }, (_, i) => exec(hook.script, ['add', `${i}`, 'a b', "it's"])),
    );
    await until(() => calls.length === 20);
    expect(calls.map(([, i]) => Number(i)).toSorted((a, b) => a - b)).toEqual(
      Array.from({ length: 20 }, (_, i) => i),
    );
    expect(calls[0]?.slice(2)).toEqual(['a b', "it's"]);
    await exec(hook.script, ['x'.repeat(100_000)]);
    await exec(hook.script, ['two\nlines']);
    await until(() => calls.length === 22);
    expect(calls.at(-1)).toEqual(['twolines']);
    stop.abort();
    await reading;
    await exec(hook.script, ['nobody reads']);
  });
});

/**
 * There is no radio here, so a program stands in for hostapd_cli: it prints what the real one (2.10) prints for `all_sta`, and calls
 * the action script as that does.
 */
const HOSTAPD_CLI = `#!/bin/sh
echo "$@" >> "$0.calls"
last=$(eval echo \\$$#)
if [ "$last" = all_sta ]; then
  printf '02:00:00:00:00:01\\nflags=[AUTH][ASSOC][AUTHORIZED][WMM]\\naid=1\\nsignal=-61\\n'
  printf '02:00:00:00:00:02\\nflags=[AUTH][ASSOC]\\naid=2\\n'
  exit 0
fi
"$last" wlan0 AP-STA-CONNECTED 02:00:00:00:00:03
"$last" wlan0 AP-STA-POSSIBLE-PSK-MISMATCH 02:00:00:00:00:04
"$last" wlan0 AP-STA-DISCONNECTED 02:00:00:00:00:01
"$last" wlan1 AP-STA-CONNECTED 02:00:00:00:00:05
sleep 0.3
`;

test('hostapd: who is there at the start, then who comes and goes; ended, it is started again', async () => {
  const program = dir.file('hostapd_cli');
  await writeFile(program, HOSTAPD_CLI);
  await chmod(program, 0o755);
  const seen: Seen[] = [];
  const stop = new AbortController();
  const source = hostapdSource({
    dir: dir.file('hostapd'),
    interface: 'wlan0',
    control: '/run/hostapd',
    program,
  });
  const running = superviseSource(source, (one) => seen.push(one), silent, stop.signal);
  await until(() => seen.filter(({ device }) => device.endsWith('03')).length === 2);
  stop.abort();
  await running;
  const first = seen.slice(0, 3);
  expect(first).toContainEqual({ device: '02:00:00:00:00:01', kind: 'arrive', signalDbm: -61 });
  expect(first).toContainEqual({ device: '02:00:00:00:00:03', kind: 'arrive' });
  expect(first).toContainEqual({ device: '02:00:00:00:00:01', kind: 'leave' });
  expect(seen.some(({ device }) => /0[245]$/.test(device))).toBe(false);
  expect(await readFile(`${program}.calls`, 'utf8')).toMatch(
    /-p \/run\/hostapd -i wlan0 -a .*\/hostapd-wlan0\.sh/,
  );
});

describe('over HTTP', () => {
  const SECRET = 'a-secret-of-the-mec-platform';
  const stop = new AbortController();
  const seen: Seen[] = [];
  let base: string;
  let ca: Awaited<ReturnType<typeof generateCa>>;
  let running: Promise<void>;
  const tokenOf = async (device: string, expiresAtMs = Date.now() + 60_000): Promise<string> =>
    signDeviceToken(await issueSiteCertificate(ca, 'center'), device, expiresAtMs);

  beforeAll(async () => {
    ca = await generateCa();
    const listen = { host: '127.0.0.1', port: await freePort() };
    base = `http://127.0.0.1:${listen.port}`;
    const source = webSource({
      listen,
      portal: { ca: ca.cert, center: 'center' },
      mec: { secret: SECRET, accessPoints: ['02-00-00-00-AA-01', '02:00:00:00:aa:02'] },
      log: silent,
      silentMs: 500,
    });
    running = superviseSource(source, (one) => seen.push(one), silent, stop.signal);
    while (!(await fetch(base).catch(() => undefined))?.ok) await sleep(20);
  });
  afterAll(async () => {
    stop.abort();
    await running;
  });
  const here = async (token: string, method = 'POST'): Promise<{ status: number; text: string }> => {
    const answer = await fetch(`${base}/here`, { method, headers: { authorization: `Bearer ${token}` } });
    return { status: answer.status, text: await answer.text() };
  };

  test('a browser is here while it says so', async () => {
    const token = await tokenOf('Phone-1');
    expect((await here(token)).status).toBe(200);
    await here(token);
    await until(() => seen.some(({ kind, device }) => kind === 'leave' && device === 'phone-1'));
    expect(seen.filter(({ device }) => device === 'phone-1').map(({ kind }) => kind)).toEqual([
      'arrive',
      'leave',
    ]);
    await here(token);
    expect((await here(token, 'DELETE')).status).toBe(200);
    expect(seen.at(-1)).toEqual({ device: 'phone-1', kind: 'leave' });
    expect(await (await fetch(base)).text()).toContain('/here');
  });

  test('a token that is expired, of another CA, of another node, changed or none is refused with a code', async () => {
    const good = await tokenOf('phone-2');
    const other = await generateCa();
    const bad = [
      await tokenOf('phone-2', Date.now() - 10_000),
      await signDeviceToken(await issueSiteCertificate(other, 'center'), 'phone-2', Date.now() + 60_000),
      await signDeviceToken(await issueSiteCertificate(ca, 'ap1-h1'), 'phone-2', Date.now() + 60_000),
      `${good.slice(0, -6)}AAAAAA`,
      'x',
      '',
    ];
    for (const token of bad) {
      const { status, text } = await here(token);
      expect(status).toBe(401);
      expect(text).toContain('PRESENCE_TOKEN');
    }
    await expect(verifyDeviceToken('a.b.c', { ca: ca.cert, center: 'center' })).rejects.toThrow(
      expect.objectContaining({ code: 'PRESENCE_TOKEN' }) as Error,
    );
    expect(seen.some(({ device }) => device === 'phone-2')).toBe(false);
  });

  const notify = (body: unknown, secret = SECRET): Promise<Response> =>
    fetch(`${base}/mec/${secret}/wai`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  const associated = (bssid: string, seconds: number, ...macs: string[]): object => ({
    notificationType: 'AssocStaNotification',
    timeStamp: { seconds, nanoSeconds: 0 },
    apId: { bssid, ssid: ['campus'] },
    staId: macs.map((macId) => ({ macId, ssid: ['campus'] })),
  });

  test('MEC 028: who is associated has come, who no longer is has gone, unless to another access point of the site', async () => {
    seen.length = 0;
    const [one, two] = ['02:00:00:00:BB:01', '02:00:00:00:BB:02'];
    expect((await notify(associated('02:00:00:00:aa:01', 1000, one, two))).status).toBe(204);
    await notify(associated('02:00:00:00:aa:02', 1001, one));
    await notify(associated('02:00:00:00:aa:01', 1002, two));
    await notify(associated('02:00:00:00:aa:01', 1001, one, two));
    await notify(associated('02:00:00:00:ff:ff', 1003, '02:00:00:00:bb:03'));
    await notify(associated('02:00:00:00:aa:01', 1004));
    expect(seen.map(({ device, kind }) => `${device.slice(-2)} ${kind}`)).toEqual([
      '01 arrive',
      '02 arrive',
      '01 arrive',
      '02 leave',
    ]);
  });

  test.each([
    ['no JSON', '{'],
    ['another kind', JSON.stringify({ notificationType: 'Other' })],
    ['too many stations', JSON.stringify(associated('x', 1, ...Array.from({ length: 1001 }, () => 'x')))],
    ['too long', JSON.stringify({ x: 'x'.repeat(300_000) })],
  ])('MEC 028: refuses %s with a code', async (_what, body) => {
    const answer = await notify(body);
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect(answer.status).toBeLessThan(500);
    expect(await answer.text()).toContain('PRESENCE_BAD_REQUEST');
  });

  test('MEC 028: refuses who does not know the secret', async () => {
    const answer = await notify(associated('02:00:00:00:aa:01', 2000, '02:00:00:00:bb:09'), 'another');
    expect([answer.status, await answer.text()]).toEqual([
      403,
      expect.stringContaining('PRESENCE_FORBIDDEN'),
    ]);
  });
});

test('what was seen while the site is cut off comes to the center afterwards, the latest of each device', async () => {
  await using nats = await testNats();
  const plane = await nats.plane('ap1');
  const publisher = new PresencePublisher('ap1', silent);
  const stop = new AbortController();
  const running = publisher.run(plane, stop.signal);
  publisher.report('dhcp', { device: 'AA:BB:CC:DD:EE:FF', kind: 'arrive', address: '10.0.0.7' });
  await until(() => publisher.waiting === 0);
  process.kill(nats.server.pid, 'SIGSTOP');
  publisher.report('dhcp', { device: 'phone-1', kind: 'arrive' });
  publisher.report('dhcp', { device: 'phone-1', kind: 'leave' });
  publisher.report('dhcp', { device: 'phone-2', kind: 'arrive' });
  await sleep(100);
  expect(publisher.waiting).toBe(2);
  process.kill(nats.server.pid, 'SIGCONT');
  await until(() => publisher.waiting === 0);
  const consumer = await plane.js.consumers.get(STREAMS.presence);
  const said: string[] = [];
  for await (const message of await consumer.fetch({ max_messages: 3, expires: 2_000 })) {
    const { device, site, kind, source } = message.json<Record<string, string>>();
    said.push([device, site, kind, source].join(' '));
  }
  expect(said.toSorted()).toEqual([
    'aa:bb:cc:dd:ee:ff ap1 arrive dhcp',
    'phone-1 ap1 leave dhcp',
    'phone-2 ap1 arrive dhcp',
  ]);
  stop.abort();
  await running;
});

test('MEC 021: a platform is told of moves in order, again when it did not take one, and holds nobody up', async () => {
  const got: string[] = [];
  let refuse = 2;
  const server = createServer((request: IncomingMessage, response) => {
    let text = '';
    request.on('data', (piece) => (text += String(piece)));
    request.on('end', () => {
      response.statusCode = refuse > 0 ? 503 : 204;
      if (refuse > 0) refuse -= 1;
      else got.push(text);
      response.end();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await using notifier = new Notifier(`http://127.0.0.1:${port}/cb`, silent);
  const move = { vm: 'vm-000000000000', address: '10.0.0.7', target: { host: 'h', port: 1 }, atMs: 1_500 };
  notifier.notify(mobilityNotification({ ...move, status: 'INTER_HOST_MOBILITY_TRIGGERED' }));
  notifier.notify(mobilityNotification({ ...move, status: 'INTER_HOST_MOBILITY_COMPLETED' }));
  await until(() => got.length === 2);
  expect(JSON.parse(got[0] ?? '')).toEqual({
    notificationType: 'MobilityProcedureNotification',
    timeStamp: { seconds: 1, nanoSeconds: 500_000_000 },
    associateId: [{ type: 'UE_IPv4_ADDRESS', value: '10.0.0.7' }],
    mobilityStatus: 'INTER_HOST_MOBILITY_TRIGGERED',
    targetAppInfo: { appInstanceId: move.vm, commInterface: [{ ipAddresses: [{ host: 'h', port: 1 }] }] },
    _links: { subscription: { href: 'urn:cloudap:vm:vm-000000000000' } },
  });
  expect(got[1]).toContain('COMPLETED');
  server.closeAllConnections();
  server.close();
  notifier.notify(mobilityNotification({ ...move, status: 'INTER_HOST_MOBILITY_FAILED' }));
});
