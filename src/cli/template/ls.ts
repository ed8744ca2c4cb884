import type { Command } from 'commander';
import * as z from 'zod';
import { templateViewSchema } from '../../site/api/template-messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { formatBytes, printJson, table } from '../kit/output.ts';

export default function ls(context: CliContext): Command {
  return withSite(
    command('ls', 'list the templates of a site', 'cloudap template ls --site-config center/site.yaml'),
  ).action(
    action(context, async (options: SiteOptions & { json?: boolean }) => {
      const templates = await apiClient(options).json('GET', '/templates', z.array(templateViewSchema));
      if (options.json) return printJson(context.output, templates);
      const rows = templates.map((template) => [
        template.name,
        template.digest.slice(0, 16),
        template.image.slice(0, 16),
        `${template.memoryMiB} MiB`,
        formatBytes(template.allocatedBytes),
        `${template.accelerator}, QEMU ${template.qemuVersion}`,
        template.createdAt,
        template.usedBy.join(' ') || '-',
      ]);
      const head = ['NAME', 'DIGEST', 'IMAGE', 'MEMORY', 'ON DISK', 'OF', 'CREATED', 'RUNNING VMS'];
      context.output.out(table(head, rows));
      return undefined;
    }),
  );
}
