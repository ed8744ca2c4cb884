import type { Command } from 'commander';
import { statusSchema } from '../../site/api/messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson, table } from '../kit/output.ts';

export default function status(context: CliContext): Command {
  return withSite(
    command(
      'status',
      'show one site: processes, capacity, accelerator',
      'cloudap site status --site-config center/site.yaml',
    ),
  ).action(
    action(context, async (options: SiteOptions & { json?: boolean }) => {
      const site = await apiClient(options).json('GET', '/status', statusSchema);
      if (options.json) return printJson(context.output, site);
      const { capacity } = site;
      const disk = capacity.diskMiB === null ? '' : ` of ${capacity.diskMiB}`;
      context.output.out(
        table(
          ['SITE', site.id],
          [
            [
              'agent',
              `process ${site.pid}, ${site.rssMiB} MiB, since ${new Date(site.startedAtMs).toISOString()}`,
            ],
            [
              'gateway',
              site.listen ? `${site.listen}, process ${site.gatewayPid ?? '-'}` : 'none: it dials out only',
            ],
            ['QEMU', `${site.qemuVersion}, ${site.accelerator} (${site.acceleratorReason})`],
            ['memory', `${capacity.memoryUsedMiB} of ${capacity.memoryMiB} MiB`],
            ['disk', `${capacity.diskUsedMiB}${disk} MiB used, ${capacity.diskFreeMiB} MiB free`],
            ['VMs', `${capacity.vmsUsed} of ${capacity.vms}`],
            ['data', site.dataDir],
            ['sockets', site.runtimeDir],
          ],
        ),
      );
      return undefined;
    }),
  );
}
