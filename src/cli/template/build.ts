import type { Command } from 'commander';
import { CloudapError } from '../../base/errors.ts';
import type { ApiClient } from '../../site/api/client.ts';
import {
  buildTemplateSchema,
  buildViewSchema,
  type BuildTemplate,
  type BuildView,
} from '../../site/api/template-messages.ts';
import { CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB, TEMPLATE_AFTER_MAX_S } from '../../site/constants.ts';
import {
  action,
  apiClient,
  command,
  withSite,
  wholeNumber,
  type CliContext,
  type SiteOptions,
} from '../kit/command.ts';
import { withInterrupt } from '../kit/interrupt.ts';
import { formatMs, printJson } from '../kit/output.ts';
import { ProgressLine } from '../kit/progress.ts';

interface Options extends SiteOptions {
  image: string;
  name: string;
  after?: number;
  memory?: number;
  cpus?: number;
  append?: string;
  machine?: string;
  cpu?: string;
  json?: boolean;
}

const doing: Readonly<Record<BuildView['state'], string>> = {
  starting: 'starts a VM',
  booting: 'waits until the guest is ready',
  saving: 'freezes it',
  hashing: 'hashes and indexes its memory and disk',
  completed: 'done',
  failed: 'failed',
  cancelled: 'cancelled',
};

export default function build(context: CliContext): Command {
  const cmd = command(
    'build',
    'boot a VM of an image, wait until it is ready, and keep it, frozen, as a template',
    'cloudap template build --image abiword --name desk --site-config center/site.yaml',
  );
  return withSite(cmd)
    .requiredOption('--image <image>', 'name, digest or beginning of the digest of an image')
    .requiredOption('--name <name>', 'name of the template')
    .option(
      '--after <seconds>',
      'freeze it so long after its start (default: when it looks as the image’s recipe says)',
      wholeNumber('--after', 0, TEMPLATE_AFTER_MAX_S),
    )
    .option(
      '--memory <mib>',
      'memory in MiB (default: the image’s)',
      wholeNumber('--memory', MEMORY_MIN_MIB, MEMORY_MAX_MIB),
    )
    .option('--cpus <n>', 'virtual CPUs (default: the image’s)', wholeNumber('--cpus', 1, CPUS_MAX))
    .option('--append <text>', 'added to the kernel command line of an image with a kernel')
    .option('--machine <type>', 'versioned machine type that all sites know (default: pc-i440fx-7.2)')
    .option('--cpu <model>', 'CPU model that all sites support (default: qemu64,+rdrand)')
    .action(
      action(context, async (options: Options) => {
        const api = apiClient(options);
        const { view, tookMs } = await withInterrupt((signal) =>
          run(context, api, requestOf(options), signal),
        );
        if (options.json) printJson(context.output, view);
        else context.output.out(`${view.name} ${view.template ?? ''}, made in ${formatMs(tookMs)}\n`);
      }),
    );
}

function requestOf({ image, name, after, memory, cpus, append, machine, cpu }: Options): BuildTemplate {
  return {
    image,
    name,
    ...(after === undefined ? {} : { afterS: after }),
    ...(memory === undefined ? {} : { memoryMiB: memory }),
    ...(cpus === undefined ? {} : { cpus }),
    ...(append === undefined ? {} : { append }),
    ...(machine === undefined ? {} : { machineType: machine }),
    ...(cpu === undefined ? {} : { cpuModel: cpu }),
  };
}

/** Follows a build to its end; Ctrl-C cancels it. */
async function run(
  context: CliContext,
  api: ApiClient,
  request: BuildTemplate,
  signal: AbortSignal,
): Promise<{ view: BuildView; tookMs: number }> {
  const progress = new ProgressLine(context.output);
  const body = buildTemplateSchema.parse(request);
  // not with the signal: nobody would know which build to cancel
  let view = await api.json('POST', '/templates', buildViewSchema, { body });
  const path = `/templates/builds/${view.buildId}`;
  try {
    for await (const now of api.lines(`${path}/events`, buildViewSchema, signal)) {
      view = now;
      progress.update(`${view.name}: ${doing[view.state]}`);
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    view = await api.json('DELETE', path, buildViewSchema);
  } finally {
    progress.clear();
  }
  if (view.error) throw new CloudapError(view.error.code, view.error.message, view.error.remedy, view.error);
  return { view, tookMs: (view.endedAtMs ?? Date.now()) - view.startedAtMs };
}
