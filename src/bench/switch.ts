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
import { machineFacts, runOurs } from './switch/ours.ts';
import { type BenchCase, benchCases, type BenchCodec, benchCodecs, type SwitchRun } from './switch/run.ts';
import { missing, runsOf } from './switch/resume.ts';
import { runStock } from './switch/stock.ts';
import { limitText } from './switch/use.ts';

const SITE_MEMORY_MIB = 2048;
const DEFAULT_LINK = { emulator: 'rate=100mbit,rtt=10ms', netns: 'rate=100mbit' } as const;

const HELP = `
Switch time and downtime compare memory: QEMU's count from \`migrate\`, after its mirror has copied the disk, and without
the pause in which the mirror is finished. Total time and migrated data compare memory and disk. Ours come from the
migration record, QEMU's from its events (STOP, RESUME, MIGRATION) and from what entered the link.
Downtime is STOP to RESUME and holds the link's one-way delay, which is stated apart. The service gap is the longest time in
which a client that asks the guest every 5 ms got no answer. Stock QEMU is measured cold for home and template, too: it knows
neither. A ratio below 1: ours is smaller, which is better. --quick: one run each, with 30 s of use.`;

const USE_S = 300;
const QUICK_USE_S = 30;
const TEMPLATE = 'bench';

interface Options {
  guest: 'ci' | 'abiword';
  runs?: number;
  quick?: boolean;
  cases: string;
  use?: number;
  codecs: string;
  switchBudget?: number | 'none';
  diskRate: number;
  memoryRate: number;
  link?: string;
  linkKind?: 'emulator' | 'netns';
  stockDisk: 'mirror' | 'shared';
  stock: boolean;
  json?: string;
  resume?: boolean;
}

const command = benchCommand(
  'switch',
  "switch time, downtime, total time and migrated data beside stock QEMU's own hybrid, in one run",
)
  .addOption(new Option('--guest <guest>').choices(['ci', 'abiword']).default('abiword'))
  .option('--runs <n>', 'of each; the median counts (default: 5, with --quick 1)', count)
  .option('--quick', 'one run each')
  .option('--cases <list>', `of ${benchCases.join(', ')}`, 'cold,home,template')
  .option(
    '--use <s>',
    `home and template: seconds of typing before the move (default: ${USE_S}, with --quick ${QUICK_USE_S})`,
    count,
  )
  .option('--codecs <list>', `of memory and disk: of ${benchCodecs.join(', ')}`, 'content')
  .option('--switch-budget <ms>', 'ours: as `cloudap migrate --switch-budget`; `none` for none', (text) =>
    text === 'none' ? text : count(text),
  )
  .option('--disk-rate <n>', "busy: the guest's disk operations a second", count, 30)
  .option('--memory-rate <n>', 'busy: memory pages that the guest writes a second', count, 300)
  .option('--link <spec>', `default: ${DEFAULT_LINK.emulator}; ${DEFAULT_LINK.netns} with netns`)
  .addOption(
    new Option(
      '--link-kind <kind>',
      'netns: network namespaces, veth and tbf (the default of root); emulator: a process in user space',
    ).choices(['emulator', 'netns']),
  )
  .addOption(
    new Option('--stock-disk <how>', "how stock QEMU's disk moves: blockdev-mirror, or not at all")
      .choices(['mirror', 'shared'])
      .default('mirror'),
  )
  .option('--no-stock', 'ours alone')
  .option('--resume', 'go on with what the file of --json holds; it is written after each run')
  .addHelpText('after', HELP);

await benchMain(command, async (signal, save): Promise<Outcome> => {
  const options = command.opts<Options>();
  const { guest, json } = options;
  if (options.resume && json === undefined) command.error('error: --resume goes on with a file: --json');
  const runs = options.runs ?? (options.quick ? 1 : 5);
  const useMs = 1000 * (options.use ?? (options.quick ? QUICK_USE_S : USE_S));
  const cases = casesNamed(options.cases);
  const linkKind = options.linkKind ?? (process.getuid?.() === 0 ? 'netns' : 'emulator');
  const link = parseLinkSpec(options.link ?? DEFAULT_LINK[linkKind]);
  const image = await benchGuest(guest, signal);
  const dir = await mkdtemp(join(tmpdir(), 'cbs-'));
  const results = options.resume && json !== undefined ? await runsOf(json, process.argv.slice(2)) : [];
  const outcome = (): Outcome => {
    const rows = switchRows(casesOf(guest, results));
    const phases = phaseMedians(results);
    return {
      rows,
      text: `${rowsTable(rows)}\n${phasesTable(phases)}\nload average ${rounded(loadavg()).join(' ')}\n`,
      details: { link: { kind: linkKind, ...link }, guest, useMs, phases, runs: results },
    };
  };
  const add = async (result: SwitchRun): Promise<void> => {
    results.push(result);
    report(results, runs);
    await save(outcome());
  };
  try {
    await using wan: Wan = await (linkKind === 'netns' ? NetnsWan.start(link) : EmulatedWan.start(link));
    await using lab = await TwoSites.start({
      dir: join(dir, 'sites'),
      wan,
      memoryMiB: SITE_MEMORY_MIB,
      signal,
    });
    await lab.stage(image);
    const machine = await machineFacts(lab, image);
    const template = cases.includes('template') ? await lab.template(image, TEMPLATE, signal) : undefined;
    // one after the other, in turns, so that whatever else the host does hits all alike
    const busy = { diskPerS: options.diskRate, memoryPerS: options.memoryRate };
    const stockCases = (['cold', 'busy'] as const).filter((name) =>
      cases.some((wanted) => (wanted === 'busy') === (name === 'busy')),
    );
    for (let run = 1; run <= runs; run += 1) {
      for (const codec of codecsOf(options.codecs)) {
        const journey = {
          codec,
          run,
          cases: missing(results, { run, scheme: codec }, cases),
          load: busy,
          useMs,
          template,
          switchBudgetMs: options.switchBudget === 'none' ? null : options.switchBudget,
          rateMbit: link.rateMbit,
        };
        for await (const result of runOurs(lab, image, journey, signal)) {
          await add(result);
        }
      }
      for (const name of options.stock ? missing(results, { run, scheme: 'stock' }, stockCases) : []) {
        const load = name === 'busy' ? busy : undefined;
        const stock = { dir: join(dir, 'stock'), machine, load, run, disk: options.stockDisk };
        await add(await runStock(wan, image, stock, signal));
      }
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
  return outcome();
});

function casesNamed(list: string): BenchCase[] {
  return list
    .split(',')
    .map(
      (name) =>
        benchCases.find((known) => known === name) ??
        command.error(`error: --cases ${list}: of ${benchCases.join(', ')}`),
    );
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
  const { scheme, case: name, run, switchTimeMs, downtimeMs, totalTimeMs, migratedBytes } = last;
  const ms = (value: number): string => `${value.toFixed(1)} ms`;
  say(
    `${run}/${runs} ${name} ${scheme}: switch ${ms(switchTimeMs)}, downtime ${ms(downtimeMs)}, gap ${ms(last.serviceGapMs)}, ` +
      `total ${ms(totalTimeMs)}, ${(migratedBytes / 2 ** 20).toFixed(1)} MiB, load ${last.loadAverage.toFixed(1)}` +
      (last.completedAsPrecopy ? ', completed as pre-copy' : '') +
      (last.limit ? `; ${limitText(last.limit)}` : ''),
  );
}
