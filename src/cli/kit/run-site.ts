import type { Logger } from 'pino';
import { realBackends } from '../../site/backends.ts';
import { formatAddress } from '../../site/config-text.ts';
import { loadConfig } from '../../site/config.ts';
import { makeDataDir } from '../../site/paths.ts';
import { Site } from '../../site/site.ts';
import type { CliContext } from './command.ts';
import { EXIT_OK } from './constants.ts';
import { agentLog, signalled } from './run-agent.ts';

export interface RunOptions {
  stopVms?: boolean;
  json?: boolean;
}

/** Runs the agent of a configuration until a signal; `join` has it take part in something that ends before it. */
export async function runSite(
  context: CliContext,
  file: string,
  options: RunOptions,
  join?: (site: Site, log: Logger) => AsyncDisposable,
): Promise<void> {
  const config = loadConfig(file);
  makeDataDir(config.dataDir);
  const log = agentLog(context, { site: config.id }, config.dataDir);
  const ended = signalled();
  using backends = await realBackends(config);
  const site = await Site.start(config, { backends, log });
  let joined: AsyncDisposable | undefined;
  try {
    joined = join?.(site, log);
  } catch (error) {
    await site.stop();
    throw error;
  }
  const listen = config.link.listen ? `, gateway ${formatAddress(config.link.listen)}` : '';
  const { apiSocket } = site.paths;
  if (options.json)
    context.output.out(`${JSON.stringify({ ready: true, pid: process.pid, socket: apiSocket })}\n`);
  else
    context.output.out(
      `site ${config.id} ready: API ${apiSocket}${listen}, log ${config.dataDir}/agent.log\n`,
    );
  log.info({ signal: await ended }, 'ending');
  // a second signal does not wait
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => process.exit(1));
  await joined?.[Symbol.asyncDispose]();
  await site.stop({ stopVms: options.stopVms === true });
  // movers that run on are still watched by timers
  process.exit(EXIT_OK);
}
