import { mkdir } from 'node:fs/promises';
import type { Command } from 'commander';
import { loadAgentConfig } from '../center/config.ts';
import { SiteAgent } from '../host/site-agent.ts';
import { formatAddress } from '../site/config-text.ts';
import { PresencePublisher } from '../mobility/publisher.ts';
import { configuredSources } from '../mobility/sources/configured.ts';
import { superviseSource } from '../mobility/sources/source.ts';
import { keepRenewed } from '../registry/renewal.ts';
import { loadTls } from '../site/tls.ts';
import { action, command, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { failUsage } from './kit/output.ts';
import { agentLog, signalled } from './kit/run-agent.ts';

/** `cloudap ap --config FILE`: the agent of a CloudAP, which places VMs on its hosts. */
export default function ap(context: CliContext): Command {
  return command('ap', 'run the agent of a CloudAP', 'cloudap ap --config ap1/ap.yaml')
    .option('--config <file>', 'its configuration (docs/TWO-TIER.md)')
    .action(
      action(context, async (options: { config?: string; json?: boolean }) => {
        if (options.config === undefined) throw failUsage('USAGE', '`cloudap ap` needs --config FILE');
        await run(context, options.config, options.json === true);
        return EXIT_OK;
      }),
    );
}

async function run(context: CliContext, file: string, json: boolean): Promise<void> {
  const { id, dataDir, tls, control, presence } = loadAgentConfig(file);
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const log = agentLog(context, { agent: id }, dataDir);
  const ended = signalled();
  const stop = new AbortController();
  const { ca } = await loadTls(tls, id);
  const publisher = new PresencePublisher(control.site, log);
  const sources = presence ? configuredSources(presence, { dataDir, ca, center: control.center, log }) : [];
  const running = sources.map((source) =>
    superviseSource(source, (seen) => publisher.report(source.name, seen), log, stop.signal),
  );
  const starting = SiteAgent.start({
    node: id,
    site: control.site,
    address: { servers: control.servers.map(formatAddress), tls: { files: tls, server: control.center } },
    log,
    signal: stop.signal,
    presence: publisher,
  });
  // an AP starts with its center out of reach, too: it is ready to take up its work when that is back
  context.output.out(
    json
      ? `${JSON.stringify({ ready: true, pid: process.pid })}\n`
      : `agent of ${control.site} started, log ${dataDir}/agent.log\n`,
  );
  starting.then(
    () => log.info('joined the control plane'),
    (error: unknown) => {
      if (!stop.signal.aborted) log.error({ err: error }, 'control plane');
    },
  );
  if (control.enrol)
    void keepRenewed({
      node: id,
      files: tls,
      center: { id: control.center, address: control.enrol },
      log,
      signal: stop.signal,
    });
  log.info({ signal: await ended }, 'ending');
  stop.abort();
  await Promise.all(running);
  const agent = await Promise.race([starting.catch(() => undefined), Promise.resolve(undefined)]);
  await agent?.[Symbol.asyncDispose]();
  process.exit(EXIT_OK);
}
