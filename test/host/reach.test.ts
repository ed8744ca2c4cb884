import { readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { NatsConnection } from '@nats-io/transport-node';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { freePort } from '../../src/lab/free-port.ts';
import { sleep } from '../../src/base/async.ts';
import { errorCode } from '../../src/base/errors.ts';
import { loadCenterConfig } from '../../src/center/config.ts';
import { connectControl } from '../../src/control/connect.ts';
import { request } from '../../src/control/requests.ts';
import { hostSubject } from '../../src/control/subjects.ts';
import { TwoTier } from '../../src/lab/two-tier.ts';
import { siteViewSchema, statusSchema, type SiteView } from '../../src/site/api/messages.ts';
import { type TempDir, tempDir } from '../kit/tempdir.ts';

let dir: TempDir;
let system: TwoTier;
let connection: NatsConnection;

/** ap3's host listens nowhere; what those of ap1 and ap2 say of themselves leads nowhere: all reach the center only. */
beforeAll(async () => {
  dir = await tempDir();
  const nobody = `127.0.0.1:${await freePort()}`;
  const plan = {
    dir: dir.file('up'),
    aps: 3,
    hostsPerSite: 1,
    memoryMiB: 1024,
    accelerator: 'tcg',
    port: freePort,
  } as const;
  system = await TwoTier.start(plan, {
    async configured({ hosts }) {
      for (const [host, file] of hosts) {
        const text = await readFile(file, 'utf8');
        if (host === 'ap3-h1') await writeFile(file, text.replace(/^link: .*$/m, 'link: {}'));
        else if (host !== 'center-h1')
          await writeFile(file, text.replace(/^(link: .*) }$/m, `$1, advertise: "${nobody}" }`));
      }
    },
  });
  const { tls, nats } = loadCenterConfig(system.files.center);
  const { host, port } = 'listen' in nats ? nats.listen : { host: '', port: 0 };
  connection = await connectControl(
    'center',
    { servers: [`${host}:${port}`], tls: { files: tls, server: 'center' } },
    { log: pino({ enabled: false }) },
  );
});
afterAll(async () => {
  await connection?.close();
  await system?.[Symbol.asyncDispose]();
  await dir?.[Symbol.asyncDispose]();
});

/** Has a host find another one, as for a migration; there is no such VM, which is what it says when it has. */
async function find(from: string, to: string): Promise<SiteView | undefined> {
  expect(await outcome(from, to)).toBe('VM_UNKNOWN');
  return view(from, to);
}

async function outcome(from: string, to: string): Promise<string> {
  const move = `mig-${Math.random().toString(16).slice(2).padEnd(12, '0').slice(0, 12)}`;
  const params = { move, vm: 'vm-000000000000', to, initiatedAtMs: Date.now() };
  const answer = request(connection, hostSubject(from, 'migrate'), params, z.unknown());
  return answer.then(() => 'none', errorCode);
}

const view = async (at: string, of: string): Promise<SiteView | undefined> =>
  (await system.host(at).json('GET', '/sites', z.array(siteViewSchema))).find(({ id }) => id === of);

/** Ways that the relay gave, since the test began. */
async function relayed(): Promise<string[]> {
  const file = join(dirname(system.files.hosts.get('center-h1') ?? ''), 'data', 'agent.log');
  const said = z.object({ msg: z.literal('relayed'), from: z.string(), to: z.string() });
  return (await readFile(file, 'utf8'))
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => said.safeParse(JSON.parse(line)).data)
    .flatMap((way) => (way ? [`${way.from} ${way.to}`] : []));
}

test('hosts that can reach each other do so directly, whoever of them can dial', async () => {
  // nobody listens at ap1's address, so the center's host has itself dialled
  expect(await find('center-h1', 'ap1-h1')).toMatchObject({ connected: true, direction: 'accepted' });
  expect(await find('ap3-h1', 'center-h1')).toMatchObject({ connected: true, direction: 'dialled' });
  expect(await relayed()).toEqual([]);
});

test('those that cannot meet at the center’s, with addresses that lead nowhere and with none', async () => {
  const via = { connected: true, address: expect.stringContaining('relay center-h1') };
  expect(await find('ap1-h1', 'ap2-h1')).toMatchObject({ ...via, direction: 'dialled' });
  expect(await view('ap2-h1', 'ap1-h1')).toMatchObject({ ...via, direction: 'accepted' });
  expect(await find('ap2-h1', 'ap3-h1')).toMatchObject({ ...via, direction: 'dialled' });
  // the other way it is there
  await find('ap3-h1', 'ap2-h1');
  expect(await relayed()).toEqual(['ap1-h1 ap2-h1', 'ap2-h1 ap3-h1']);
});

test('they come back to it by themselves when the relay’s gateway and its agent have ended', async () => {
  const before = (await view('ap1-h1', 'ap2-h1'))?.connectedSinceMs ?? 0;
  const { gatewayPid } = await system.host('center-h1').json('GET', '/status', statusSchema);
  await system.kill('host:center-h1');
  process.kill(gatewayPid ?? 0, 'SIGKILL');
  await system.run('host:center-h1');
  for (;;) {
    const now = await view('ap1-h1', 'ap2-h1');
    if (now?.connected && (now.connectedSinceMs ?? 0) > before) break;
    await sleep(100);
  }
  expect((await relayed()).filter((way) => way === 'ap1-h1 ap2-h1').length).toBeGreaterThan(1);
});

test('one that was started again is found again, at the relay first', async () => {
  await system.kill('host:ap2-h1');
  await system.run('host:ap2-h1');
  // it serves its API before it has joined the control plane; a center asks again, too
  while ((await outcome('ap1-h1', 'ap2-h1')) === 'HOST_NO_ROUTE') await sleep(100);
  const found = await find('ap1-h1', 'ap2-h1');
  expect(found).toMatchObject({ connected: true, address: expect.stringContaining('relay center-h1') });
});
