/**
 * Measures the link: bulk throughput as a share of the emulated rate, and how long urgent messages take while bulk
 * runs flat out. Source, target, gateway and emulator are processes of their own on this machine, so that one-way times
 * come from one clock.
 *
 *   node src/bench/link.ts [--json] [--seconds 5] [--links 'rate=10mbit,rtt=5ms;rate=1000mbit,rtt=20ms']
 *
 * `--json` prints rows {case, metric, value, peer, peerValue, ratio}; for throughput the peer is the emulated rate, for
 * latency the emulated one-way delay.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, mkdir, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { sleep } from '../base/async.ts';
import { wallClockUs } from '../link/clock.ts';
import { dialLink } from '../link/dial.ts';
import { parseLinkSpec } from '../link/link-spec.ts';
import { acceptLink } from '../link/listener.ts';
import { generateCa, issueSiteCertificate } from '../link/pki.ts';
import type { TlsMaterial } from '../link/tls.ts';
import type { LinkSession } from '../link/types.ts';

const DEFAULT_LINKS = [10, 100, 1000]
  .flatMap((rate) => [5, 20].map((rtt) => `rate=${rate}mbit,rtt=${rtt}ms`))
  .join(';');
const BULK_MESSAGE_BYTES = 128 * 1024;
const URGENT_MESSAGE_BYTES = 256;
const URGENT_EVERY_MS = 20;
const WARM_UP_MS = 2_000;
const TYPE = { BULK: 1, URGENT: 2, REPORT: 3 } as const;

interface Row {
  case: string;
  metric: string;
  value: number;
  peer: string;
  peerValue: number;
  ratio: number;
}

/** Starts a script of this repository and waits for its first line of JSON. */
async function start(
  file: string,
  argument: object | string,
): Promise<{ child: ChildProcess; ready: Record<string, unknown> }> {
  const path = fileURLToPath(new URL(file, import.meta.url));
  const json = typeof argument === 'string' ? argument : JSON.stringify(argument);
  const child = spawn(process.execPath, [path, json], { stdio: ['pipe', 'pipe', 'inherit'] });
  for await (const line of createInterface({ input: child.stdout })) {
    return { child, ready: JSON.parse(line) as Record<string, unknown> };
  }
  throw new Error(`${file} did not start`);
}

/** The target's process: notes how late urgent messages come, and reports the times when asked. */
async function target(config: { socketPath: string; tls: TlsMaterial }): Promise<void> {
  let lateMs: number[] = [];
  const session: LinkSession = await acceptLink({
    ...config,
    sessionId: 'bench',
    expectedPeer: 'source',
    onMessage(type, payload) {
      if (type === TYPE.URGENT) lateMs.push((wallClockUs() - Number(payload.readBigUInt64BE(0))) / 1000);
      if (type === TYPE.REPORT) {
        void session.send('urgent', TYPE.REPORT, Buffer.from(JSON.stringify(lateMs)));
        lateMs = [];
      }
    },
  });
  process.stdout.write('{"ready":true}\n');
  await session.closed;
}

const quantile = (sorted: readonly number[], q: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN;

async function measure(link: string, seconds: number, viaGateway: boolean): Promise<Row[]> {
  const spec = parseLinkSpec(link);
  const dir = await mkdtemp(join(tmpdir(), 'cb-'));
  const children: ChildProcess[] = [];
  try {
    await mkdir(join(dir, 'l'));
    const ca = await generateCa();
    const socketPath = join(dir, 'l', 'bench.sock');
    const farEnd = await start(
      './link.ts',
      `target:${JSON.stringify({ socketPath, tls: await issueSiteCertificate(ca, 'target') })}`,
    );
    children.push(farEnd.child);
    let forward: object = { path: socketPath };
    if (viaGateway) {
      const gateway = await start('../link/gateway-main.ts', {
        host: '127.0.0.1',
        port: 0,
        socketDir: join(dir, 'l'),
      });
      children.push(gateway.child);
      forward = { host: '127.0.0.1', port: gateway.ready['port'] };
    }
    const emulator = await start('../link/emulator-main.ts', {
      listen: { host: '127.0.0.1', port: 0 },
      forward,
      link,
    });
    children.push(emulator.child);
    const address = emulator.ready['address'] as { host: string; port: number };
    const report = Promise.withResolvers<number[]>();
    const session = dialLink({
      sessionId: 'bench',
      address,
      route: viaGateway ? 'bench' : undefined,
      tls: await issueSiteCertificate(ca, 'source'),
      expectedPeer: 'target',
      onMessage: (_type, payload) => report.resolve(JSON.parse(payload.toString()) as number[]),
    });
    await session.opened();
    const over = new AbortController();
    const bulk = (async () => {
      const payload = Buffer.alloc(BULK_MESSAGE_BYTES, 0x5a);
      while (!over.signal.aborted) await session.send('bulk', TYPE.BULK, payload);
    })();
    await sleep(WARM_UP_MS);
    const arrived = (): number => session.stats().bulk.bytesSent - session.stats().bulk.bytesInFlight;
    const fromMs = performance.now();
    const fromBytes = arrived();
    let worstInFlight = 0;
    while (performance.now() - fromMs < seconds * 1000) {
      const payload = Buffer.alloc(URGENT_MESSAGE_BYTES);
      payload.writeBigUInt64BE(BigInt(wallClockUs()));
      await session.send('urgent', TYPE.URGENT, payload);
      worstInFlight = Math.max(worstInFlight, session.stats().bulk.bytesInFlight);
      await sleep(URGENT_EVERY_MS);
    }
    const rateMbit = ((arrived() - fromBytes) * 8) / 1000 / (performance.now() - fromMs);
    const { windowBytes, minRttMs } = session.stats();
    over.abort();
    await bulk;
    await session.send('urgent', TYPE.REPORT, Buffer.alloc(0));
    const lateMs = (await report.promise).sort((a, b) => a - b);
    await session.close();
    const oneWayMs = spec.rttMs / 2;
    const row = (metric: string, value: number, peer: string, peerValue: number): Row => ({
      case: link,
      metric,
      value: Math.round(value * 100) / 100,
      peer,
      peerValue,
      ratio: Math.round((value / peerValue) * 1000) / 1000,
    });
    return [
      row('bulkMbit', rateMbit, 'emulated rate', spec.rateMbit ?? Number.NaN),
      row('urgentP50Ms', quantile(lateMs, 0.5), 'one-way delay', oneWayMs),
      row('urgentP99Ms', quantile(lateMs, 0.99), 'one-way delay', oneWayMs),
      row('urgentMaxMs', lateMs.at(-1) ?? Number.NaN, 'one-way delay', oneWayMs),
      row('minRttMs', minRttMs ?? Number.NaN, 'emulated round trip', spec.rttMs),
      row(
        'maxInFlightBytes',
        worstInFlight,
        'bandwidth x delay',
        ((spec.rateMbit ?? 0) * spec.rttMs * 1000) / 8,
      ),
      row('windowBytes', windowBytes, 'bandwidth x delay', ((spec.rateMbit ?? 0) * spec.rttMs * 1000) / 8),
    ];
  } finally {
    for (const child of children) child.kill();
    await rm(dir, { recursive: true, force: true });
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      seconds: { type: 'string', default: '5' },
      links: { type: 'string', default: DEFAULT_LINKS },
      direct: { type: 'boolean', default: false },
    },
  });
  for (const link of values.links.split(';')) {
    const rows = await measure(link, Number(values.seconds), !values.direct);
    if (values.json) for (const row of rows) process.stdout.write(`${JSON.stringify(row)}\n`);
    else {
      const text = rows.map((row) => `${row.metric} ${row.value} (${row.ratio}x)`).join('  ');
      process.stdout.write(`${link}: ${text}\n`);
    }
  }
}

const argument = process.argv[2] ?? '';
if (argument.startsWith('target:')) {
  await target(JSON.parse(argument.slice('target:'.length)) as Parameters<typeof target>[0]);
} else await main();
