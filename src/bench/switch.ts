/**
 * `npm run bench:switch`: the paper's metrics of CloudAP beside stock QEMU's own hybrid, in one run over one link.
 * What is counted how: docs/BENCHMARKS.md.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { Option } from 'commander';
import { EmulatedWan } from '../lab/emulated-wan.ts';
import { NetnsWan } from '../lab/netns-wan.ts';
import { TwoSites } from '../lab/two-sites.ts';
import type { Wan } from '../lab/wan.ts';
import { parseLinkSpec } from '../link/link-spec.ts';
import { benchGuest } from './kit/guest.ts';
import { benchCommand, benchMain, count, type Outcome, say } from './kit/main.ts';
import { rounded } from './kit/report.ts';
import { rowsTable } from './kit/rows.ts';
import { casesOf, phaseMedians, phasesTable, switchRows } from './switch/figures.ts';
import type { Load } from './switch/guest.ts';
import { machineFacts, runOurs } from './switch/ours.ts';
import { type BenchCodec, benchCodecs, type SwitchRun } from './switch/run.ts';
import { runStock } from './switch/stock.ts';

const SITE_MEMORY_MIB = 2048;
const DEFAULT_LINK = { emulator: 'rate=100mbit,rtt=10ms', netns: 'rate=100mbit' } as const;

const HELP = `
Switch time and downtime compare memory: QEMU's count from \`migrate\`, after its mirror has copied the disk, and without
the pause in which the mirror is finished. Total time and migrated data compare memory and disk. Ours come from the
migration record, QEMU's from its events (STOP, RESUME, MIGRATION) and from what entered the link.
A ratio below 1: ours is smaller, which is better. --quick: one run each of the ci guest.`;

interface Options {
  guest?: 'ci' | 'abiword';
  runs?: number;
  quick?: boolean;
  load: 'idle' | 'busy' | 'both';
  codecs: string;
  diskRate: number;
  memoryRate: number;
  link?: string;
  linkKind: 'emulator' | 'netns';
  stockDisk: 'mirror' | 'shared';
  stock: boolean;
}

const command = benchCommand(
  'switch',
  "switch time, downtime, total time and migrated data beside stock QEMU's own hybrid, in one run",
)
  .addOption(new Option('--guest <guest>', 'default: abiword, with --quick ci').choices(['ci', 'abiword']))
  .option('--runs <n>', 'of each; the median counts (default: 5, with --quick 1)', count)
  .option('--quick', 'one run each')
  .addOption(new Option('--load <load>', 'of the guest').choices(['idle', 'busy', 'both']).default('both'))
  .option(
    '--codecs <list>',
    'of memory and disk; content: pages of the base image as references, disk with zstd',
    'rle,zstd',
  )
  .option('--disk-rate <n>', "busy: the guest's disk operations a second", count, 30)
  .option('--memory-rate <n>', 'busy: memory pages that the guest writes a second', count, 300)
  .option('--link <spec>', `default: ${DEFAULT_LINK.emulator}; ${DEFAULT_LINK.netns} with netns`)
  .addOption(
    new Option(
      '--link-kind <kind>',
      'emulator: a process in user space; netns: network namespaces, veth and tbf (root)',
    )
      .choices(['emulator', 'netns'])
      .default('emulator'),
  )
  .addOption(
    new Option('--stock-disk <how>', "how stock QEMU's disk moves: blockdev-mirror, or not at all")
      .choices(['mirror', 'shared'])
      .default('mirror'),
  )
  .option('--no-stock', 'ours alone')
  .addHelpText('after', HELP);

await benchMain(command, async (signal): Promise<Outcome> => {
  const options = command.opts<Options>();
  const guest = options.guest ?? (options.quick ? 'ci' : 'abiword');
  const runs = options.runs ?? (options.quick ? 1 : 5);
  const link = parseLinkSpec(options.link ?? DEFAULT_LINK[options.linkKind]);
  const image = await benchGuest(guest, signal);
  const dir = await mkdtemp(join(tmpdir(), 'cbs-'));
  const results: SwitchRun[] = [];
  try {
    await using wan: Wan = await (options.linkKind === 'netns'
      ? NetnsWan.start(link)
      : EmulatedWan.start(link));
    await using lab = await TwoSites.start({
      dir: join(dir, 'sites'),
      wan,
      memoryMiB: SITE_MEMORY_MIB,
      signal,
    });
    await lab.stage(image);
    const machine = await machineFacts(lab, image);
    // one after the other, in turns, so that whatever else the host does hits all alike
    for (let run = 1; run <= runs; run += 1) {
      for (const load of loadsOf(options)) {
        for (const codec of codecsOf(options.codecs)) {
          results.push(await runOurs(lab, image, { codec, load, run }, signal));
          report(results, runs);
        }
        if (!options.stock) continue;
        const stock = { dir: join(dir, 'stock'), machine, load, run, disk: options.stockDisk };
        results.push(await runStock(wan, image, stock, signal));
        report(results, runs);
      }
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
  const rows = switchRows(casesOf(guest, results));
  const phases = phaseMedians(results);
  return {
    rows,
    text: `${rowsTable(rows)}\n${phasesTable(phases)}\nload average ${rounded(loadavg()).join(' ')}\n`,
    details: { link: { kind: options.linkKind, ...link }, guest, phases, runs: results },
  };
});

function loadsOf({ load, diskRate, memoryRate }: Options): Load[] {
  const busy = { diskPerS: diskRate, memoryPerS: memoryRate };
  return load === 'both' ? [undefined, busy] : [load === 'busy' ? busy : undefined];
}

function codecsOf(list: string): BenchCodec[] {
  return list
    .split(',')
    .map(
      (name) =>
        benchCodecs.find((codec) => codec === name) ??
        command.error(`error: --codecs ${list}: of ${benchCodecs.join(', ')}`),
    );
}

function report(results: readonly SwitchRun[], runs: number): void {
  const last = results.at(-1);
  if (!last) return;
  const { scheme, load, run, switchTimeMs, downtimeMs, totalTimeMs, migratedBytes } = last;
  const ms = (value: number): string => `${value.toFixed(1)} ms`;
  say(
    `${run}/${runs} ${load} ${scheme}: switch ${ms(switchTimeMs)}, downtime ${ms(downtimeMs)}, ` +
      `total ${ms(totalTimeMs)}, ${(migratedBytes / 2 ** 20).toFixed(1)} MiB, load ${last.loadAverage.toFixed(1)}` +
      (last.completedAsPrecopy ? ', completed as pre-copy' : ''),
  );
}
