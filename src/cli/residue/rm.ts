import type { Command } from 'commander';
import { removedSchema } from '../../site/api/messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson } from '../kit/output.ts';

export default function rm(context: CliContext): Command {
  return withSite(
    command(
      'rm',
      'remove what a site keeps of a VM that left; its return then costs as much as its leave',
      'cloudap residue rm desk --site-config center/site.yaml',
    ),
  )
    .argument('<vm>', 'name or id')
    .action(
      action(context, async (name: string, options: SiteOptions & { json?: boolean }) => {
        const path = `/residue/${encodeURIComponent(name)}`;
        const removed = await apiClient(options).json('DELETE', path, removedSchema);
        if (options.json) printJson(context.output, removed);
        else context.output.out(`residue of ${name} removed\n`);
      }),
    );
}
