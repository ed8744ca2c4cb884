import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Option, type Command } from 'commander';
import { sleep } from '../base/async.ts';
import { CloudapError } from '../base/errors.ts';
import { buildGuest } from '../content/guests/build.ts';
import { ImageStore } from '../content/images/store.ts';
import { TwoSites } from '../lab/two-sites.ts';
import { parseLinkSpec } from '../link/link-spec.ts';
import { DemoVm } from './demo/steps.ts';
import { action, command, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { budgetOf, parseBudgetMs } from './kit/duration.ts';
import { defaultCacheDir } from './kit/image-store.ts';
import { withInterrupt } from './kit/interrupt.ts';
import { MigrationDisplay, summary } from './kit/migration-display.ts';
import { formatMs } from './kit/output.ts';
import { bar, ProgressLine } from './kit/progress.ts';

const SITE_MEMORY_MIB = 2048;
const codecs = ['raw', 'rle', 'zstd', 'content'];

interface Options {
  guest: 'abiword' | 'ci';
  scheme: 'hybrid';
  link: string;
  memoryCodec?: string;
  diskCodec?: string;
  switchBudget?: number | 'none';
  json?: string;
  keep?: boolean;
}

export default function demo(context: CliContext): Command {
  const cmd = command(
    'demo',
    'show a VM moving between a Cloud center and a CloudAP on this machine, while it works',
    'cloudap demo --guest ci --link rate=50mbit,rtt=20ms',
  );
  const options = cmd.options as Option[];
  options.splice(0, options.length);
  return cmd
    .addOption(
      new Option(
        '--guest <guest>',
        'abiword: a desktop with a word processor; ci: small and without a screen, in half the time',
      )
        .choices(['abiword', 'ci'])
        .default('abiword'),
    )
    .addOption(
      new Option('--scheme <scheme>', 'hybrid: memory once ahead, the rest and the disk afterwards')
        .choices(['hybrid'])
        .default('hybrid'),
    )
    .option('--link <spec>', 'the emulated WAN: rate=, rtt=, jitter=', 'rate=100mbit,rtt=10ms')
    .addOption(new Option('--memory-codec <codec>', 'how pages travel (rle: the paper’s)').choices(codecs))
    .addOption(
      new Option('--disk-codec <codec>', 'how disk blocks travel (rle: the paper’s)').choices(codecs),
    )
    .option(
      '--switch-budget <time>',
      'switch after about this long (500ms, 2s, none); see `cloudap migrate --help`',
      parseBudgetMs,
    )
    .option('--json <file>', 'write the migration record (docs/METRICS.md) to this file')
    .option('--keep', 'leave both sites running until Ctrl-C')
    .action(
      action(context, (chosen: Options) => withInterrupt((signal) => runDemo(context, chosen, signal))),
    );
}

async function runDemo(context: CliContext, options: Options, signal: AbortSignal): Promise<number> {
  const { output } = context;
  const link = parseLinkSpec(options.link);
  const cacheDir = defaultCacheDir(context.env);
  const step = stepper(context);
  const startedMs = performance.now();

  const image = await step(`guest ${options.guest}`, async (tell) =>
    buildGuest(options.guest, await ImageStore.open(join(cacheDir, 'images')), cacheDir, {
      signal,
      onProgress: ({ step: name, fraction, detail }) =>
        tell(`${name} ${fraction === undefined ? '' : bar(fraction)} ${detail ?? ''}`),
    }),
  );
  const dir = await mkdtemp(join(tmpdir(), 'cloudap-demo-'));
  try {
    await using lab = await step('Cloud center and CloudAP', () =>
      TwoSites.start({ dir, link, memoryMiB: SITE_MEMORY_MIB, signal }),
    );
    const vm = new DemoVm(lab, image, join(cacheDir, 'demo'), signal);
    await step('base image at both sites', () => lab.stage(image));
    await step('VM at the center', () => vm.start());
    await step(vm.hasScreen ? 'AbiWord up, text typed' : 'guest up, workload started', () =>
      vm.useAtCenter(),
    );
    const display = new MigrationDisplay(output);
    const { record, view } = await vm
      .migrate(
        {
          scheme: options.scheme,
          ...(options.memoryCodec ? { memoryCodec: options.memoryCodec } : {}),
          ...(options.diskCodec ? { diskCodec: options.diskCodec } : {}),
          ...budgetOf(options.switchBudget),
        },
        (next) => display.show(next),
      )
      .finally(() => display.close());
    if (record && options.json !== undefined)
      await writeFile(options.json, `${JSON.stringify(record, null, 2)}\n`);
    if (view.error || !record) {
      const { code, message, remedy } = view.error ?? { code: 'INTERNAL', message: 'no record', remedy: '' };
      throw new CloudapError(code, message, remedy);
    }
    const verified = await step('verification at the CloudAP', () => vm.verifyAtAp());
    if (!options.keep) verified.push(await step('overlay checked', () => vm.checkOverlay()));

    output.out(`\n${summary(record)}\nverified\n${verified.map((line) => `  ${line}\n`).join('')}`);
    if (vm.hasScreen)
      output.out(`\nscreenshots\n  before     ${vm.shot('before')}\n  after      ${vm.shot('after')}\n`);
    output.out(`\ndone in ${formatMs(performance.now() - startedMs)}\n`);
    if (options.keep) {
      output.out(
        `\nBoth sites run on. In another terminal:\n` +
          `  ./cloudap vm ls --site-config ${lab.ap.config}\n` +
          `  ./cloudap migrate desk --to center --site-config ${lab.ap.config}\n` +
          `Ctrl-C stops the VM and both sites.\n`,
      );
      await sleep(2 ** 31 - 1, signal).catch(() => {});
    }
    return EXIT_OK;
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

/** Runs one step after the other, each with a line that moves while it lasts and stays with its time. */
function stepper(context: CliContext) {
  return async <T>(name: string, work: (tell: (text: string) => void) => Promise<T>): Promise<T> => {
    const line = new ProgressLine(context.output);
    const startedMs = performance.now();
    let detail = '';
    const show = (): void =>
      line.update(`${name} … ${formatMs(performance.now() - startedMs)} ${detail}`.trimEnd());
    const timer = setInterval(show, 250);
    try {
      const result = await work((text) => {
        detail = text.trim();
        show();
      });
      line.done(`${name.padEnd(28)} ${formatMs(performance.now() - startedMs)}`);
      return result;
    } finally {
      clearInterval(timer);
      line.clear();
    }
  };
}
