import type { Command } from 'commander';
import { vmViewSchema } from '../../site/api/messages.ts';
import {
  action,
  apiClient,
  command,
  withSite,
  wholeNumber,
  type CliContext,
  type SiteOptions,
} from '../kit/command.ts';
import { printJson } from '../kit/output.ts';

interface Options extends SiteOptions {
  force?: boolean;
  grace?: number;
  json?: boolean;
}

export default function stop(context: CliContext): Command {
  return withSite(
    command(
      'stop',
      'shut a VM down: press its power button; switch it off if it has not obeyed in time',
      'cloudap vm stop desk --grace 60 --site-config center/site.yaml',
    ),
  )
    .argument('<vm>', 'name or id')
    .option('--force', 'switch off at once, as when the power fails')
    .option(
      '--grace <seconds>',
      'how long the guest may take to shut down (default: 20)',
      wholeNumber('--grace', 0, 600),
    )
    .action(
      action(context, async (name: string, options: Options) => {
        const { force, grace } = options;
        const body = { force: force === true, ...(grace === undefined ? {} : { graceMs: grace * 1000 }) };
        const path = `/vms/${encodeURIComponent(name)}/stop`;
        const timeoutMs = 120_000 + (grace ?? 0) * 1000;
        const vm = await apiClient(options).json('POST', path, vmViewSchema, { body, timeoutMs });
        if (options.json) printJson(context.output, vm);
        else context.output.out(`${vm.name} ${vm.status}\n`);
      }),
    );
}
