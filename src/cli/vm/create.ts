import type { Command } from 'commander';
import { vmViewSchema, type CreateVm } from '../../site/api/messages.ts';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { machineOf, type MachineOptions, withMachine } from '../kit/machine-options.ts';
import { failUsage, formatMs, printJson } from '../kit/output.ts';

interface Options extends SiteOptions, MachineOptions {
  image?: string;
  template?: string;
  start?: boolean;
  json?: boolean;
}

export default function create(context: CliContext): Command {
  const cmd = command(
    'create',
    'make a VM from an image of the site, or let one go on from a template',
    'cloudap vm create desk --image abiword --start --site-config center/site.yaml',
  );
  const chosen = withSite(cmd)
    .argument('<name>', 'name, unique at the site')
    .option('--image <image>', 'name, digest or beginning of the digest of an image')
    .option('--template <template>', 'the same of a template: the VM runs at once, as it was frozen');
  return withMachine(chosen)
    .option('--start', 'start it at once (otherwise: `cloudap vm start`)')
    .addHelpText(
      'after',
      `  cloudap vm create alice --template desk --site-config center/site.yaml

A VM of a template has the template's machine, so the options above but --image do not go with --template.
Once stopped, it starts from its disk like any other VM: what was open in the template's memory is not open any more.`,
    )
    .action(
      action(context, async (name: string, options: Options) => {
        const { image, template, start } = options;
        if ((image === undefined) === (template === undefined))
          throw failUsage('USAGE', 'give either --image or --template');
        const body: CreateVm = {
          name,
          ...(image === undefined ? {} : { image }),
          ...(template === undefined ? {} : { template }),
          ...machineOf(options),
          start: start === true,
        };
        const vm = await apiClient(options).json('POST', '/vms', vmViewSchema, { body });
        if (options.json) printJson(context.output, vm);
        else {
          const after = vm.startedMs === undefined ? '' : ` after ${formatMs(vm.startedMs)}`;
          context.output.out(`${vm.name} ${vm.id} ${vm.status}${after}\n`);
        }
      }),
    );
}
