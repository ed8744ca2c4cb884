import type { Command } from 'commander';
import { vmViewSchema } from '../../site/api/messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson } from '../kit/output.ts';

export default function start(context: CliContext): Command {
  return withSite(command('start', 'start a VM', 'cloudap vm start desk --site-config center/site.yaml'))
    .argument('<vm>', 'name or id')
    .action(
      action(context, async (name: string, options: SiteOptions & { json?: boolean }) => {
        const path = `/vms/${encodeURIComponent(name)}/start`;
        const vm = await apiClient(options).json('POST', path, vmViewSchema);
        if (options.json) printJson(context.output, vm);
        else
          context.output.out(
            `${vm.name} ${vm.status}, process ${vm.pid ?? '-'}, serial log ${vm.serialLog}\n`,
          );
      }),
    );
}
