import type { Command } from 'commander';
import * as z from 'zod';
import { siteViewSchema } from '../../site/api/messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson, table } from '../kit/output.ts';

export default function ls(context: CliContext): Command {
  return withSite(
    command('ls', 'list the sites that a site knows', 'cloudap site ls --site-config center/site.yaml'),
  ).action(
    action(context, async (options: SiteOptions & { json?: boolean }) => {
      const sites = await apiClient(options).json('GET', '/sites', z.array(siteViewSchema));
      if (options.json) return printJson(context.output, sites);
      const rows = sites.map((site) => [
        site.id,
        site.self ? 'this site' : site.connected ? `connected (${site.direction ?? '-'})` : 'not connected',
        site.address ?? '-',
        site.qemuVersion ?? '-',
        site.accelerator ?? '-',
      ]);
      context.output.out(table(['SITE', 'STATE', 'ADDRESS', 'QEMU', 'ACCELERATOR'], rows));
      for (const { id, error } of sites)
        if (error) context.output.out(`\n${id}: ${error.code}: ${error.message}\n`);
      return undefined;
    }),
  );
}
