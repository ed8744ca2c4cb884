import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, readFile, writeFile } from 'node:fs/promises';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { sleep } from '../../src/base/async.ts';
import { run } from '../../src/base/process.ts';
import { dhcpSource } from '../../src/mobility/sources/dhcp.ts';
import { superviseSource, type Seen } from '../../src/mobility/sources/source.ts';
import { tempDir, type TempDir } from '../kit/tempdir.ts';

const MAC = '02:00:00:00:00:07';
const SERVER = `cloudap-dhcp-${process.pid}-s`;
const CLIENT = `cloudap-dhcp-${process.pid}-c`;
const silent = pino({ level: 'silent' });
let dir: TempDir;
let dnsmasq: ChildProcess | undefined;

/** A real dnsmasq and a real DHCP client, each in a network namespace of its own. */
beforeAll(async () => {
  dir = await tempDir();
  await writeFile(dir.file('udhcpc.sh'), CLIENT_SCRIPT, { mode: 0o755 });
  for (const name of [SERVER, CLIENT]) await run('ip', ['netns', 'add', name]);
  await run('ip', [
    'link',
    'add',
    'lan',
    'netns',
    SERVER,
    'type',
    'veth',
    'peer',
    'name',
    'lan',
    'netns',
    CLIENT,
  ]);
  await run('ip', ['-n', CLIENT, 'link', 'set', 'lan', 'address', MAC]);
  await run('ip', ['-n', SERVER, 'addr', 'add', '10.78.0.1/24', 'dev', 'lan']);
  for (const name of [SERVER, CLIENT]) await run('ip', ['-n', name, 'link', 'set', 'lan', 'up']);
});
afterAll(async () => {
  dnsmasq?.kill();
  for (const name of [SERVER, CLIENT]) await run('ip', ['netns', 'del', name]).catch(() => {});
  await dir[Symbol.asyncDispose]();
});

async function startDnsmasq(script: string): Promise<void> {
  const options = `--conf-file=/dev/null --port=0 --interface=lan --bind-interfaces --user=root --pid-file=
    --dhcp-range=10.78.0.10,10.78.0.50,2m --dhcp-script=${script} --dhcp-leasefile=${dir.file('leases')}`;
  const command = ['netns', 'exec', SERVER, 'dnsmasq', '--keep-in-foreground', ...options.split(/\s+/)];
  dnsmasq = spawn('ip', command, { stdio: 'ignore' });
  await once(dnsmasq, 'spawn');
}

const CLIENT_SCRIPT = `#!/bin/sh
[ "$1" = bound ] && ip addr add "$ip/24" dev "$interface"
exit 0
`;

/** udhcpc gives its lease back (-R) when it ends; it needs the address for that. */
function startClient(): ChildProcess {
  return spawn(
    'ip',
    [
      'netns',
      'exec',
      CLIENT,
      'busybox',
      'udhcpc',
      '-i',
      'lan',
      '-f',
      '-R',
      '-t',
      '20',
      '-T',
      '1',
      '-s',
      dir.file('udhcpc.sh'),
    ],
    { stdio: 'ignore' },
  );
}

describe('leases of a real dnsmasq', () => {
  test('tell when a device comes and goes, and who was there when the agent starts', async () => {
    const seen: Seen[] = [];
    let stop = new AbortController();
    const start = (): Promise<void> =>
      superviseSource(
        dhcpSource({ dir: dir.file('presence'), leases: dir.file('leases') }),
        (one) => seen.push(one),
        silent,
        stop.signal,
      );
    let running = start();
    const script = dir.file('presence/dhcp.sh');
    while (!(await readFile(script, 'utf8').catch(() => ''))) await sleep(20);
    await startDnsmasq(script);
    const client = startClient();
    while (seen.length === 0) await sleep(20);
    expect(seen[0]).toMatchObject({ device: MAC, kind: 'arrive' });
    expect(seen[0]?.address).toMatch(/^10\.78\.0\.\d+$/);
    while (!(await readFile(dir.file('leases'), 'utf8').catch(() => '')).includes(MAC)) await sleep(20);

    // the agent is away: dnsmasq's script does not wait for it, and the lease tells it afterwards
    stop.abort();
    await running;
    seen.length = 0;
    await run(script, ['add', '02:00:00:00:00:08', '10.78.0.99', 'x']);
    await appendFile(dir.file('leases'), '1000 02:00:00:00:00:09 10.78.0.98 expired *\nnonsense\n');
    stop = new AbortController();
    running = start();
    while (seen.length === 0) await sleep(20);
    expect(seen).toEqual([{ device: MAC, kind: 'arrive', address: expect.any(String) as string }]);

    const exit = once(client, 'exit');
    client.kill();
    await exit;
    while (!seen.some(({ kind }) => kind === 'leave')) await sleep(20);
    expect(seen.at(-1)).toMatchObject({ device: MAC, kind: 'leave' });
    stop.abort();
    await running;
  });
});
