import type { Command } from 'commander';
import { pino } from 'pino';
import { realBackends } from '../../site/backends.ts';
import { formatAddress } from '../../site/config-text.ts';
import { loadConfig } from '../../site/config.ts';
import { makeDataDir } from '../../site/paths.ts';
import { Site } from '../../site/site.ts';
import { action, type CliContext } from '../kit/command.ts';
import { EXIT_OK } from '../kit/constants.ts';
import { failUsage } from '../kit/output.ts';

interface Options {
  config?: string;
  stopVms?: boolean;
  json?: boolean;
}

/** `cloudap site --config FILE`: runs the agent until SIGTERM or SIGINT. */
export function addRun(cmd: Command, context: CliContext): Command {
  return cmd
    .option('--config <file>', 'run the site of this configuration, in the foreground')
    .option('--stop-vms', 'stop its VMs when it ends (they run on otherwise)')
    .action(
      action(context, async (options: Options) => {
        if (options.config === undefined)
          throw failUsage('USAGE', '`cloudap site` needs --config FILE or a subcommand');
        await run(context, options.config, options);
        return EXIT_OK;
      }),
    );
}

async function run(context: CliContext, file: string, options: Options): Promise<void> {
  const config = loadConfig(file);
  makeDataDir(config.dataDir);
  const log = pino(
    { base: { site: config.id }, level: context.env.CLOUDAP_LOG ?? 'info' },
    pino.destination({ dest: `${config.dataDir}/agent.log`, append: true, mode: 0o600, sync: true }),
  );
  // a signal while it starts ends it as soon as it has started: half a start is no state to leave
  const ended = new Promise<string>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
  using backends = await realBackends(config);
  const site = await Site.start(config, { backends, log });
  const listen = config.link.listen ? `, gateway ${formatAddress(config.link.listen)}` : '';
  if (options.json)
    context.output.out(
      `${JSON.stringify({ ready: true, pid: process.pid, socket: site.paths.apiSocket })}\n`,
    );
  else
    context.output.out(
      `site ${config.id} ready: API ${site.paths.apiSocket}${listen}, log ${config.dataDir}/agent.log\n`,
    );
  log.info({ signal: await ended }, 'ending');
  // a second signal does not wait
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => process.exit(1));
  await site.stop({ stopVms: options.stopVms === true });
  // movers that run on are still watched by timers
  process.exit(EXIT_OK);
}
