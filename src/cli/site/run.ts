import type { Command } from 'commander';
import { action, type CliContext } from '../kit/command.ts';
import { EXIT_OK } from '../kit/constants.ts';
import { failUsage } from '../kit/output.ts';
import { runSite, type RunOptions } from '../kit/run-site.ts';

/** `cloudap site --config FILE`: runs the agent until SIGTERM or SIGINT. */
export function addRun(cmd: Command, context: CliContext): Command {
  return cmd
    .option('--config <file>', 'run the site of this configuration, in the foreground')
    .option('--stop-vms', 'stop its VMs when it ends (they run on otherwise)')
    .action(
      action(context, async (options: RunOptions & { config?: string }) => {
        if (options.config === undefined)
          throw failUsage('USAGE', '`cloudap site` needs --config FILE or a subcommand');
        await runSite(context, options.config, options);
        return EXIT_OK;
      }),
    );
}
