/**
 * `npm run bench:pull`: how long a read of a block that is still at the source takes while the active push runs flat
 * out. What is measured how: docs/BENCHMARKS.md.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { EmulatedWan } from '../lab/emulated-wan.ts';
import { TwoSites } from '../lab/two-sites.ts';
import { type LinkSpec, parseLinkSpec } from '../link/link-spec.ts';
import { SECTOR_BYTES } from '../wire/disk/index.ts';
import { failBench } from './kit/errors.ts';
import { benchGuest } from './kit/guest.ts';
import { benchCommand, benchMain, count, type Outcome, say } from './kit/main.ts';
import { rounded } from './kit/report.ts';
import { makeRow, type Row, rowsTable } from './kit/rows.ts';
import { buckets, quantile, significant, sparkline } from './kit/stats.ts';
import { type PullCase, runCase, writeOverlay } from './pull/case.ts';
import { type LinkKind, linkKinds } from './pull/end.ts';
import { runOurs } from './switch/ours.ts';
import type { SwitchRun } from './switch/run.ts';

const MIB = 2 ** 20;
const BUCKETS = 40;
const SITE_MEMORY_MIB = 1024;
/** The guest first writes nearly all of its region of 64 MiB, then reads and writes as fast as it can. */
const GUEST_LOAD = { diskPerS: 'max', memoryPerS: 100, prefillPerS: 'max', prefillMs: 15_000 } as const;
const titles: Readonly<Record<LinkKind, string>> = {
  lanes: 'urgent and bulk lane',
  bulk: 'answers sent as bulk',
  fifo: 'one TCP connection',
};

const HELP = `
Reads of 4 KiB at random places, one at a time, until everything has arrived; those that had to wait count. Peer is the
emulated round trip plus the block's own time on the line, the least that a pull can take. The cases below the first send the
same over the link without its urgent lane, and over one plain TCP connection: what waiting behind pushed data costs.
"guest" is a migration of the ci guest while it reads and writes its disk as fast as it can, from its record.`;

interface Options {
  link: string;
  sizeMib: number;
  qemu: boolean;
}

const command = benchCommand('pull', 'latency of reads of dirty blocks while the active push runs flat out')
  .option('--link <spec>', 'the emulated WAN', 'rate=100mbit,rtt=20ms')
  .option('--size-mib <n>', 'of the overlay', count, 128)
  .option('--no-qemu', 'without the run with a guest')
  .addHelpText('after', HELP);

await benchMain(command, async (signal): Promise<Outcome> => {
  const options = command.opts<Options>();
  const spec = parseLinkSpec(options.link);
  const sizeBytes = options.sizeMib * MIB;
  const dir = await mkdtemp(join(tmpdir(), 'cbp-'));
  const cases: PullCase[] = [];
  let guest: SwitchRun | undefined;
  try {
    const overlay = join(dir, 'overlay.raw');
    await writeOverlay(overlay, sizeBytes);
    for (const kind of linkKinds) {
      cases.push(await runCase({ dir, overlay, sizeBytes, kind, link: options.link }, signal));
      say(`${kind}: ${cases.at(-1)?.latenciesMs.length} reads waited, load ${loadavg()[0]?.toFixed(1)}`);
    }
    if (options.qemu) guest = await runGuest(join(dir, 'sites'), spec, signal);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
  const rows = [...cases.flatMap((c) => caseRows(c, spec)), ...(guest ? guestRows(guest, spec) : [])];
  const histograms = cases.map((c) => ({ case: c.kind, ...histogram(c.latenciesMs) }));
  const lines = histograms.map((h) => `  ${h.case.padEnd(6)}${h.text}\n`).join('');
  return {
    rows,
    text: `${rowsTable(rows)}\nlatency of waiting reads (height: square root of the count)\n${lines}\nload average ${rounded(loadavg()).join(' ')}\n`,
    details: { link: spec, sizeMib: options.sizeMib, histograms, guest: guest ?? null },
  };
});

/** The least that a pull can take. */
function leastMs({ rttMs, rateMbit }: LinkSpec): number {
  return rttMs + (rateMbit === undefined ? 0 : (SECTOR_BYTES * 8) / 1000 / rateMbit);
}

function caseRows({ kind, latenciesMs, pushMbit }: PullCase, spec: LinkSpec): Row[] {
  const peer = { name: 'round trip + own transfer', value: leastMs(spec) };
  const notes = `${titles[kind]}, ${latenciesMs.length} reads waited`;
  const row = (metric: string, value: number): Row => makeRow(kind, metric, value, { peer, notes });
  return [
    row('pullP50Ms', quantile(latenciesMs, 0.5)),
    row('pullP99Ms', quantile(latenciesMs, 0.99)),
    row('pullMaxMs', quantile(latenciesMs, 1)),
    makeRow(kind, 'pushMbit', pushMbit, {
      peer: spec.rateMbit === undefined ? undefined : { name: 'emulated rate', value: spec.rateMbit },
      notes,
    }),
  ];
}

async function runGuest(dir: string, spec: LinkSpec, signal: AbortSignal): Promise<SwitchRun> {
  const image = await benchGuest('ci', signal);
  await using wan = await EmulatedWan.start(spec);
  await using lab = await TwoSites.start({ dir, wan, memoryMiB: SITE_MEMORY_MIB, signal });
  await lab.stage(image);
  const journey = {
    codec: 'rle',
    load: GUEST_LOAD,
    run: 1,
    cases: ['busy'],
    useMs: 0,
    template: undefined,
    switchBudgetMs: undefined,
    rateMbit: undefined,
  } as const;
  for await (const result of runOurs(lab, image, journey, signal)) return result;
  throw failBench('BENCH_RUN', 'no migration');
}

function guestRows({ pulls, overlayBytes }: SwitchRun, spec: LinkSpec): Row[] {
  const peer = { name: 'round trip + own transfer', value: leastMs(spec) };
  const notes = `${pulls?.count ?? 0} reads of the guest waited; overlay ${Math.round((overlayBytes ?? 0) / MIB)} MiB`;
  const row = (metric: string, value: number | null | undefined): Row =>
    makeRow('guest', metric, value ?? Number.NaN, { peer, notes });
  return [row('pullP50Ms', pulls?.p50), row('pullP99Ms', pulls?.p99), row('pullMaxMs', pulls?.max)];
}

function histogram(latenciesMs: readonly number[]): {
  text: string;
  fromMs: number;
  toMs: number;
  counts: number[];
} {
  const all = buckets(latenciesMs, BUCKETS);
  const [fromMs, toMs] = [significant(all[0]?.fromMs ?? 0), significant(all.at(-1)?.toMs ?? 0)];
  return {
    text: `${fromMs} ms │${sparkline(all)}│ ${toMs} ms`,
    fromMs,
    toMs,
    counts: all.map((bucket) => bucket.count),
  };
}
