import type { Command } from 'commander';
import { HostAgent } from '../host/host-agent.ts';
import { action, command, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { failUsage } from './kit/output.ts';
import { runSite, type RunOptions } from './kit/run-site.ts';

/** `cloudap host --config FILE`: a host of a two-tier system; what `cloudap site` runs, joined to the control plane. */
export default function host(context: CliContext): Command {
  return command('host', 'run a host of a two-tier system', 'cloudap host --config ap1-h1/site.yaml')
    .option('--config <file>', 'its configuration, with a `control` block (docs/SITE.md)')
    .option('--stop-vms', 'stop its VMs when it ends (they run on otherwise)')
    .action(
      action(context, async (options: RunOptions & { config?: string }) => {
        if (options.config === undefined) throw failUsage('USAGE', '`cloudap host` needs --config FILE');
        await runSite(context, options.config, options, (site, log) => HostAgent.start(site, log));
        return EXIT_OK;
      }),
    );
}
