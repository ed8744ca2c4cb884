import { resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { freePort } from '../lab/free-port.ts';
import { TwoTier } from '../lab/two-tier.ts';
import { action, command, wholeNumber, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { printJson } from './kit/output.ts';
import { signalled } from './kit/run-agent.ts';

const APS_MAX = 16;
const HOSTS_MAX = 8;

interface Options {
  dir: string;
  aps: number;
  hosts: number;
  memory: number;
  accelerator: 'auto' | 'tcg' | 'kvm';
  json?: boolean;
}

/** `cloudap up`: a two-tier system on one machine, to try things out. */
export default function up(context: CliContext): Command {
  return command(
    'up',
    'run a Cloud center and CloudAPs on this machine, until Ctrl-C',
    'cloudap up --dir ./two-tier --aps 2',
  )
    .option('--dir <dir>', 'where it lives; the same directory is the same system again', './cloudap-up')
    .option('--aps <n>', 'CloudAPs', wholeNumber('--aps', 1, APS_MAX), 1)
    .option('--hosts <n>', 'hosts of each site', wholeNumber('--hosts', 1, HOSTS_MAX), 1)
    .option(
      '--memory <mib>',
      'memory for the VMs of each host',
      wholeNumber('--memory', 64, 1024 * 1024),
      2048,
    )
    .addOption(
      new Option('--accelerator <which>', 'for the VMs').choices(['auto', 'tcg', 'kvm']).default('auto'),
    )
    .action(
      action(context, async (options: Options) => {
        const ended = signalled();
        const { output } = context;
        const sinceMs = performance.now();
        await using system = await TwoTier.start(
          {
            dir: resolve(options.dir),
            aps: options.aps,
            hostsPerSite: options.hosts,
            memoryMiB: options.memory,
            accelerator: options.accelerator,
            port: freePort,
          },
          { stopVms: false },
        );
        const { center, hosts } = system.files;
        const startedMs = Math.round(performance.now() - sinceMs);
        if (options.json)
          printJson(output, { ready: true, center, hosts: Object.fromEntries(hosts), startedMs });
        else
          output.out(
            `a center and ${options.aps} CloudAP${options.aps > 1 ? 's' : ''} run (${startedMs} ms). In another terminal:\n\n` +
              `  export CLOUDAP_CENTER=${center} CLOUDAP_CONFIG=${hosts.get('center-h1') ?? ''}\n` +
              '  cloudap image build ci\n' +
              '  cloudap center vm desk --user ann --image ci\n' +
              '  cloudap center device phone --user ann\n' +
              '  cloudap presence phone --at ap1\n' +
              '  cloudap center vms\n\nCtrl-C ends the agents; VMs run on, and are taken up by the next `cloudap up`.\n',
          );
        await ended;
        return EXIT_OK;
      }),
    );
}
