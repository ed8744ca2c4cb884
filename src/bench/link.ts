/**
 * Measures the link: bulk throughput as a share of the emulated rate, and how long urgent messages take while bulk
 * runs flat out. Source, target, gateway and emulator are processes of their own on this machine, so that one-way times
 * come from one clock.
 */
import { mkdtemp, mkdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep } from '../base/async.ts';
import { LabChild } from '../lab/child.ts';
import { wallClockUs } from '../link/clock.ts';
import { dialLink } from '../link/dial.ts';
import { parseLinkSpec } from '../link/link-spec.ts';
import { acceptLink, type LinkListenerOptions } from '../link/listener.ts';
import { generateCa, issueSiteCertificate } from '../link/pki.ts';
import { RelayServer } from '../link/relay/server.ts';
import type { LinkSession } from '../link/types.ts';
import { benchCommand, benchMain, positive, say } from './kit/main.ts';
import { makeRow, metricsTable, type Row, rowsTable } from './kit/rows.ts';
import { quantile } from './kit/stats.ts';
import { simulatedRows } from './link/simulated.ts';

const DEFAULT_LINKS = [10, 100, 1000]
  .flatMap((rate) => [5, 20].map((rtt) => `rate=${rate}mbit,rtt=${rtt}ms`))
  .join(';');
const BULK_MESSAGE_BYTES = 128 * 1024;
const URGENT_MESSAGE_BYTES = 256;
const URGENT_EVERY_MS = 20;
const WARM_UP_MS = 2_000;
const TARGET = 'target';
const RELAY = 'relay';
const TYPE = { BULK: 1, URGENT: 2, REPORT: 3 } as const;

/** What the source's connections pass: nothing, the target's gateway, or the gateway of a third site. */
type Way = 'direct' | 'gateway' | 'relay';

/** The target's process: notes how late urgent messages come, and reports the times when asked. */
async function target(config: Omit<LinkListenerOptions, 'onRefused'>): Promise<void> {
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

async function measure(link: string, seconds: number, way: Way, signal: AbortSignal): Promise<Row[]> {
  const spec = parseLinkSpec(link);
  const dir = await mkdtemp(join(tmpdir(), 'cb-'));
  try {
    await using stack = new AsyncDisposableStack();
    const start = async (file: string, ...args: string[]): Promise<Record<string, unknown>> => {
      const child = await LabChild.start([fileURLToPath(new URL(file, import.meta.url)), ...args]);
      return stack.use(child).ready as Record<string, unknown>;
    };
    await mkdir(join(dir, 'l'));
    const ca = await generateCa();
    const socketPath = join(dir, 'l', 'bench.sock');
    const farEnd: LinkListenerOptions = { socketPath, tls: await issueSiteCertificate(ca, 'target') };
    let forward: object = { path: socketPath };
    if (way !== 'direct') {
      const gateway = { host: '127.0.0.1', port: 0, socketDir: join(dir, 'l') };
      const { port } = await start('../link/gateway-main.ts', JSON.stringify(gateway));
      forward = { host: '127.0.0.1', port };
      if (way === 'relay') {
        stack.use(
          await RelayServer.listen({
            socketDir: gateway.socketDir,
            tls: await issueSiteCertificate(ca, RELAY),
          }),
        );
        // the relay is near the target: the link is the source's
        const address = { host: '127.0.0.1', port: Number(port), relay: RELAY };
        farEnd.relay = { address, route: 'bench' };
      }
    }
    await start('./link.ts', TARGET, JSON.stringify(farEnd));
    const emulator = { listen: { host: '127.0.0.1', port: 0 }, forward, link };
    const ready = await start('../link/emulator-main.ts', JSON.stringify(emulator));
    const address = ready['address'] as { host: string; port: number };
    const report = Promise.withResolvers<number[]>();
    const session = dialLink({
      sessionId: 'bench',
      address: way === 'relay' ? { ...address, relay: RELAY } : address,
      route: way === 'direct' ? undefined : 'bench',
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
    await sleep(WARM_UP_MS, signal);
    const arrived = (): number => session.stats().bulk.bytesSent - session.stats().bulk.bytesInFlight;
    const fromMs = performance.now();
    const fromBytes = arrived();
    let worstInFlight = 0;
    while (performance.now() - fromMs < seconds * 1000) {
      const payload = Buffer.alloc(URGENT_MESSAGE_BYTES);
      payload.writeBigUInt64BE(BigInt(wallClockUs()));
      await session.send('urgent', TYPE.URGENT, payload);
      worstInFlight = Math.max(worstInFlight, session.stats().bulk.bytesInFlight);
      await sleep(URGENT_EVERY_MS, signal);
    }
    const rateMbit = ((arrived() - fromBytes) * 8) / 1000 / (performance.now() - fromMs);
    const { windowBytes, minRttMs } = session.stats();
    over.abort();
    await bulk;
    await session.send('urgent', TYPE.REPORT, Buffer.alloc(0));
    const lateMs = await report.promise;
    await session.close();
    const oneWayMs = spec.rttMs / 2;
    const row = (metric: string, value: number, peer: string, peerValue: number): Row =>
      makeRow(link, metric, value, { peer: { name: peer, value: peerValue } });
    return [
      row('bulkMbit', rateMbit, 'emulated rate', spec.rateMbit ?? Number.NaN),
      row('urgentP50Ms', quantile(lateMs, 0.5), 'one-way delay', oneWayMs),
      row('urgentP99Ms', quantile(lateMs, 0.99), 'one-way delay', oneWayMs),
      row('urgentMaxMs', quantile(lateMs, 1), 'one-way delay', oneWayMs),
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
    await rm(dir, { recursive: true, force: true });
  }
}

const command = benchCommand('link', 'bulk throughput, and the delay of urgent messages beside it')
  .option('--seconds <n>', 'how long each link is measured', positive, 5)
  .option('--links <list>', 'separated by semicolons', DEFAULT_LINKS)
  .option('--direct', 'without a gateway')
  .option('--relay', 'through the gateway of a third site, which relays')
  .option('--simulate', 'instead: how long urgent frames wait, by the window’s model on a virtual clock');

interface Options {
  seconds: number;
  links: string;
  direct?: boolean;
  relay?: boolean;
  simulate?: boolean;
}

const [mode, config = ''] = process.argv.slice(2);
if (mode === TARGET) await target(JSON.parse(config) as Parameters<typeof target>[0]);
else {
  await benchMain(command, async (signal) => {
    const { links, seconds, direct, relay, simulate } = command.opts<Options>();
    if (simulate) {
      const { steady, steps } = simulatedRows();
      return { rows: [...steady, ...steps], text: `${metricsTable(steady)}\n${metricsTable(steps)}` };
    }
    const way = relay ? 'relay' : direct ? 'direct' : 'gateway';
    const rows: Row[] = [];
    for (const link of links.split(';')) {
      rows.push(...(await measure(link, seconds, way, signal)));
      say(link);
    }
    return { rows, text: rowsTable(rows) };
  });
}
