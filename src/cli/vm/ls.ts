import type { Command } from 'commander';
import * as z from 'zod';
import { vmViewSchema } from '../../site/api/messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson, table } from '../kit/output.ts';

export default function ls(context: CliContext): Command {
  return withSite(
    command('ls', 'list the VMs of a site', 'cloudap vm ls --site-config center/site.yaml'),
  ).action(
    action(context, async (options: SiteOptions & { json?: boolean }) => {
      const vms = await apiClient(options).json('GET', '/vms', z.array(vmViewSchema));
      if (options.json) return printJson(context.output, vms);
      const rows = vms.map((vm) => [
        vm.name,
        vm.id,
        vm.problem ? `${vm.status} (${vm.problem.code})` : vm.status,
        `${vm.memoryMiB} MiB`,
        String(vm.cpus),
        vm.imageName ?? vm.image.slice(0, 12),
        vm.owner,
        String(vm.generation),
        vm.pid === null ? '-' : String(vm.pid),
      ]);
      context.output.out(
        table(['NAME', 'ID', 'STATUS', 'MEMORY', 'CPUS', 'IMAGE', 'OWNER', 'GEN', 'PID'], rows),
      );
      for (const { name, problem } of vms) {
        if (problem) context.output.out(`\n${name}: ${problem.message}\n  ${problem.remedy}\n`);
      }
      return undefined;
    }),
  );
}
