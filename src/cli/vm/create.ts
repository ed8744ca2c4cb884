import type { Command } from 'commander';
import { vmViewSchema, type CreateVm } from '../../site/api/messages.ts';
import { CPUS_MAX, MEMORY_MAX_MIB, MEMORY_MIN_MIB } from '../../site/constants.ts';
import {
  action,
  apiClient,
  command,
  withSite,
  wholeNumber,
  type CliContext,
  type SiteOptions,
} from '../kit/command.ts';
import { failUsage, formatMs, printJson } from '../kit/output.ts';

interface Options extends SiteOptions {
  image?: string;
  template?: string;
  memory?: number;
  cpus?: number;
  append?: string;
  machine?: string;
  cpu?: string;
  start?: boolean;
  json?: boolean;
}

export default function create(context: CliContext): Command {
  const cmd = command(
    'create',
    'make a VM from an image of the site, or let one go on from a template',
    'cloudap vm create desk --image abiword --start --site-config center/site.yaml',
  );
  return withSite(cmd)
    .argument('<name>', 'name, unique at the site')
    .option('--image <image>', 'name, digest or beginning of the digest of an image')
    .option('--template <template>', 'the same of a template: the VM runs at once, as it was frozen')
    .option(
      '--memory <mib>',
      'memory in MiB (default: the image’s)',
      wholeNumber('--memory', MEMORY_MIN_MIB, MEMORY_MAX_MIB),
    )
    .option('--cpus <n>', 'virtual CPUs (default: the image’s)', wholeNumber('--cpus', 1, CPUS_MAX))
    .option('--append <text>', 'added to the kernel command line of an image with a kernel')
    .option('--machine <type>', 'versioned machine type that all sites know (default: pc-i440fx-7.2)')
    .option('--cpu <model>', 'CPU model that all sites support (default: qemu64,+rdrand)')
    .option('--start', 'start it at once (otherwise: `cloudap vm start`)')
    .addHelpText(
      'after',
      `  cloudap vm create alice --template desk --site-config center/site.yaml

A VM of a template has the template's machine, so the options above but --image do not go with --template.
Once stopped, it starts from its disk like any other VM: what was open in the template's memory is not open any more.`,
    )
    .action(
      action(context, async (name: string, options: Options) => {
        const { image, template, memory, cpus, append, machine, cpu, start } = options;
        if ((image === undefined) === (template === undefined))
          throw failUsage('USAGE', 'give either --image or --template');
        const body: CreateVm = {
          name,
          ...(image === undefined ? {} : { image }),
          ...(template === undefined ? {} : { template }),
          ...(memory === undefined ? {} : { memoryMiB: memory }),
          ...(cpus === undefined ? {} : { cpus }),
          ...(append === undefined ? {} : { append }),
          ...(machine === undefined ? {} : { machineType: machine }),
          ...(cpu === undefined ? {} : { cpuModel: cpu }),
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
