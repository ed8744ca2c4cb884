import type { Command } from 'commander';
import { templateRemovedSchema } from '../../site/api/template-messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson } from '../kit/output.ts';

export default function rm(context: CliContext): Command {
  return withSite(
    command(
      'rm',
      'remove a template that no running VM of the site came from',
      'cloudap template rm desk --site-config center/site.yaml',
    ),
  )
    .argument('<template>', 'name, digest or beginning of the digest')
    .action(
      action(context, async (reference: string, options: SiteOptions & { json?: boolean }) => {
        const path = `/templates/${encodeURIComponent(reference)}`;
        const removed = await apiClient(options).json('DELETE', path, templateRemovedSchema);
        if (options.json) printJson(context.output, removed);
        else context.output.out(`${removed.name} ${removed.digest.slice(0, 16)} removed\n`);
      }),
    );
}
