/**
 * `npm run bench:fair`: what the bulk lane gets of a link that it shares with one other flow, over two network namespaces
 * joined by the kernel's token bucket (root): a plain TCP stream, or the bulk lane of another migration.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { sleep } from '../base/async.ts';
import { run } from '../base/process.ts';
import { LabChild } from '../lab/child.ts';
import { NetnsWan } from '../lab/netns-wan.ts';
import { dialLink } from '../link/dial.ts';
import { parseLinkSpec } from '../link/link-spec.ts';
import { acceptLink } from '../link/listener.ts';
import { generateCa, issueSiteCertificate } from '../link/pki.ts';
import type { TlsMaterial } from '../link/tls.ts';
import { benchCommand, benchMain, count, positive, say } from './kit/main.ts';
import { makeRow, type Row, rowsTable } from './kit/rows.ts';
import { median } from './kit/stats.ts';

const MESSAGE_BYTES = 128 * 1024;
const WARM_UP_MS = 3_000;
const BULK = 1;

/** A role of this file in a process of its own; it answers each line with the bytes that have arrived so far. */
type Role =
  | { kind: 'session-target'; id: string; socketPath: string; tls: TlsMaterial }
  | { kind: 'session-source'; id: string; host: string; port: number; tls: TlsMaterial }
  | { kind: 'tcp-target'; host: string; port: number }
  | { kind: 'tcp-source'; host: string; port: number };

async function play(role: Role): Promise<void> {
  let bytes = 0;
  let rttMs: () => number | undefined = () => undefined;
  const ready = (): void => {
    process.stdout.write('{"ready":true}\n');
    createInterface({ input: process.stdin }).on('line', () =>
      process.stdout.write(`${JSON.stringify({ bytes, rttMs: rttMs() ?? null })}\n`),
    );
  };
  const message = Buffer.alloc(MESSAGE_BYTES, 0x5a);
  switch (role.kind) {
    case 'session-target': {
      const session = acceptLink({
        socketPath: role.socketPath,
        tls: role.tls,
        sessionId: role.id,
        expectedPeer: 'source',
        onMessage: (_type, payload) => {
          bytes += payload.length;
        },
      });
      ready();
      await (await session).closed.catch(() => {});
      return;
    }
    case 'session-source': {
      const session = dialLink({
        sessionId: role.id,
        address: { host: role.host, port: role.port },
        route: role.id,
        tls: role.tls,
        expectedPeer: 'target',
        onMessage: () => {},
      });
      rttMs = () => session.stats().minRttMs;
      await session.opened();
      ready();
      for (;;) await session.send('bulk', BULK, message);
    }
    case 'tcp-target':
      createServer((socket) => {
        socket.on('data', (chunk: Buffer) => (bytes += chunk.length)).on('error', () => {});
      }).listen(role.port, role.host, ready);
      return;
    case 'tcp-source': {
      const socket = connect(role.port, role.host);
      const fill = (): void => {
        while (socket.write(message));
      };
      socket.on('connect', () => {
        ready();
        fill();
      });
      socket.on('drain', fill);
    }
  }
}

interface Options {
  seconds: number;
  runs: number;
  rate: string;
  congestion: string;
}

type Beside = 'nothing' | 'tcp' | 'session';

/** One run; Mbit/s of the bulk lane and of the other flow. */
async function measure(
  wan: NetnsWan,
  beside: Beside,
  options: Options,
  signal: AbortSignal,
): Promise<[number, number]> {
  const dir = await mkdtemp(join(tmpdir(), 'cf-'));
  try {
    await using stack = new AsyncDisposableStack();
    const here = fileURLToPath(import.meta.url);
    const start = async (side: 'center' | 'ap', file: string, config: object): Promise<LabChild> =>
      stack.use(await LabChild.start([file, JSON.stringify(config)], wan.prefix[side]));
    const socketDir = join(dir, 'l');
    await mkdir(socketDir);
    const ca = await generateCa();
    const [source, target] = await Promise.all([
      issueSiteCertificate(ca, 'source'),
      issueSiteCertificate(ca, 'target'),
    ]);
    const host = wan.listenHost('ap');
    const gateway = fileURLToPath(new URL('../link/gateway-main.ts', import.meta.url));
    const port = await wan.freePort();
    await start('ap', gateway, { host, port, socketDir });
    const session = async (id: string): Promise<LabChild> => {
      const socketPath = join(socketDir, `${id}.sock`);
      const far = await start('ap', here, { kind: 'session-target', id, socketPath, tls: target });
      await start('center', here, { kind: 'session-source', id, host, port, tls: source });
      return far;
    };
    const tcp = async (): Promise<LabChild> => {
      const own = await wan.freePort();
      const far = await start('ap', here, { kind: 'tcp-target', host, port: own });
      await start('center', here, { kind: 'tcp-source', host, port: own });
      return far;
    };
    const other = beside === 'nothing' ? undefined : beside === 'tcp' ? await tcp() : await session('other');
    const ours = await session('ours');
    await sleep(WARM_UP_MS, signal);
    const bytes = async (child: LabChild | undefined): Promise<number> =>
      child ? ((await child.ask('bytes')) as { bytes: number }).bytes : 0;
    const fromMs = performance.now();
    const from = [await bytes(ours), await bytes(other)] as const;
    await sleep(options.seconds * 1000, signal);
    const ms = performance.now() - fromMs;
    const mbit = (now: number, before: number): number => ((now - before) * 8) / 1000 / ms;
    return [mbit(await bytes(ours), from[0]), mbit(await bytes(other), from[1])];
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

const command = benchCommand('fair', 'the bulk lane’s share of a link beside another flow (root)')
  .option('--seconds <n>', 'how long each run is measured, after 3 s', positive, 6)
  .option('--runs <n>', 'medians of so many', count, 3)
  .option('--rate <rate>', 'of the link', 'rate=100mbit')
  .option('--congestion <list>', 'congestion controls of the kernel, for both flows', 'reno,bbr');

const [mode] = process.argv.slice(2);
if (mode?.startsWith('{')) await play(JSON.parse(mode) as Role);
else {
  await benchMain(command, async (signal) => {
    const options = command.opts<Options>();
    const rows: Row[] = [];
    for (const congestion of options.congestion.split(',')) {
      await using wan = await NetnsWan.start(parseLinkSpec(options.rate));
      for (const prefix of Object.values(wan.prefix)) {
        const [program = '', ...args] = prefix;
        await run(program, [...args, 'sysctl', '-qw', `net.ipv4.tcp_congestion_control=${congestion}`]);
      }
      for (const beside of ['nothing', 'tcp', 'session'] as const) {
        const runs: [number, number][] = [];
        for (let i = 0; i < options.runs; i++) runs.push(await measure(wan, beside, options, signal));
        const name = `${congestion}, beside ${beside}`;
        say(
          `${name}: ${runs.map((pair) => pair.map((rate) => rate.toFixed(1)).join(' / ')).join(', ')} Mbit/s`,
        );
        const ours = median(runs.map(([rate]) => rate));
        const other = median(runs.map(([, rate]) => rate));
        const peer = beside === 'nothing' ? undefined : { name: beside, value: other };
        rows.push(makeRow(name, 'bulkMbit', ours, { peer }));
        rows.push(makeRow(name, 'sharePercent', median(runs.map(([a, b]) => (100 * a) / (a + b)))));
      }
    }
    return { rows, text: rowsTable(rows) };
  });
}
