import type { Command } from 'commander';
import * as z from 'zod';
import { residueViewSchema } from '../../site/api/messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson, table } from '../kit/output.ts';

const MIB = 1024 * 1024;

export default function ls(context: CliContext): Command {
  return withSite(
    command(
      'ls',
      'list what a site keeps of VMs that left, the one used last first',
      'cloudap residue ls --site-config center/site.yaml',
    ),
  ).action(
    action(context, async (options: SiteOptions & { json?: boolean }) => {
      const all = await apiClient(options).json('GET', '/residue', z.array(residueViewSchema));
      if (options.json) return printJson(context.output, all);
      const time = (ms: number): string => new Date(ms).toISOString();
      const rows = all.map(({ vmName, vmId, leftTo, keptAtMs, usedAtMs, bytes }) => [
        vmName,
        vmId,
        `${Math.ceil(bytes / MIB)} MiB`,
        leftTo,
        time(keptAtMs),
        time(usedAtMs),
      ]);
      context.output.out(table(['NAME', 'ID', 'SIZE', 'LEFT TO', 'KEPT', 'USED'], rows));
      return undefined;
    }),
  );
}
