import type { Command } from 'commander';
import { CloudapError } from '../../base/errors.ts';
import type { ApiClient } from '../../site/api/client.ts';
import {
  buildTemplateSchema,
  buildViewSchema,
  type BuildTemplate,
  type BuildView,
} from '../../site/api/template-messages.ts';
import { TEMPLATE_AFTER_MAX_S } from '../../site/constants.ts';
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
import { machineOf, type MachineOptions, withMachine } from '../kit/machine-options.ts';
import { failUsage, formatMs, printJson } from '../kit/output.ts';
import { ProgressLine } from '../kit/progress.ts';

interface Options extends SiteOptions, MachineOptions {
  image?: string;
  vm?: string;
  name: string;
  after?: number;
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
    'boot a VM of an image, wait until it is ready, and keep it, frozen, as a template; or a copy of a VM that runs',
    'cloudap template build --image abiword --name desk --site-config center/site.yaml',
  );
  const chosen = withSite(cmd)
    .option('--image <image>', 'name, digest or beginning of the digest of an image')
    .option('--vm <vm>', 'instead of an image: a VM that runs here; it is copied as it is, and goes on')
    .requiredOption('--name <name>', 'name of the template')
    .option(
      '--after <seconds>',
      'freeze it so long after its start (default: when it looks as the image’s recipe says)',
      wholeNumber('--after', 0, TEMPLATE_AFTER_MAX_S),
    );
  return withMachine(chosen).action(
    action(context, async (options: Options) => {
      const api = apiClient(options);
      const { view, tookMs } = await withInterrupt((signal) => run(context, api, requestOf(options), signal));
      if (options.json) printJson(context.output, view);
      else {
        const still =
          view.stoodStillMs === null ? '' : `; the VM stood still for ${formatMs(view.stoodStillMs)}`;
        context.output.out(`${view.name} ${view.template ?? ''}, made in ${formatMs(tookMs)}${still}\n`);
      }
    }),
  );
}

function requestOf(options: Options): BuildTemplate {
  const { image, vm, name, after } = options;
  if ((image === undefined) === (vm === undefined)) throw failUsage('USAGE', 'either --image or --vm');
  return { image, vm, name, ...(after === undefined ? {} : { afterS: after }), ...machineOf(options) };
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
