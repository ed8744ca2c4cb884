import { mkdir } from 'node:fs/promises';
import type { Command } from 'commander';
import { Center } from '../../center/center.ts';
import { servePortal } from '../../portal/server.ts';
import { loadCenterConfig } from '../../center/config.ts';
import { centerSocket, withCenter } from '../kit/center-client.ts';
import { action, command, type CliContext } from '../kit/command.ts';
import { EXIT_OK } from '../kit/constants.ts';
import { failUsage } from '../kit/output.ts';
import { agentLog, signalled } from '../kit/run-agent.ts';
import * as accounts from './accounts.ts';
import * as change from './change.ts';
import * as look from './look.ts';
import * as registry from './registry.ts';
import * as schedule from './schedule.ts';

export default function center(context: CliContext): Command {
  const group = command(
    'center',
    'run a Cloud center; look at its hosts, VMs, moves, devices and users',
    'cloudap center --config center/center.yaml',
  );
  group.helpCommand(false).enablePositionalOptions();
  group.option('--config <file>', 'run the center of this configuration, in the foreground').action(
    action(context, async (options: { config?: string; json?: boolean }) => {
      if (options.config === undefined)
        throw failUsage('USAGE', '`cloudap center` needs --config FILE or a subcommand');
      await run(context, options.config, options.json === true);
      return EXIT_OK;
    }),
  );
  for (const sub of [
    look.status,
    look.hosts,
    look.sites,
    look.vms,
    look.devices,
    look.users,
    schedule.moves,
    change.site,
    change.vm,
    change.rm,
    change.device,
    change.deviceToken,
    change.move,
    change.abort,
    schedule.rebalance,
    schedule.drain,
    schedule.undrain,
    registry.token,
    registry.tokens,
    registry.nodes,
    registry.revoke,
    accounts.account,
    accounts.accounts,
    accounts.apiToken,
    accounts.apiTokens,
    accounts.whoami,
  ])
    group.addCommand(withCenter(sub(context)));
  return group;
}

async function run(context: CliContext, file: string, json: boolean): Promise<void> {
  const config = loadCenterConfig(file);
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 });
  const log = agentLog(context, { center: config.id }, config.dataDir);
  const ended = signalled();
  const running = await Center.start(config, log);
  const socket = centerSocket(config.runtimeDir);
  const api = await servePortal(running, { socket, listen: config.api?.listen });
  const ready = { ready: true, pid: process.pid, socket };
  context.output.out(
    json ? `${JSON.stringify(ready)}\n` : `center ${config.id} ready, log ${config.dataDir}/agent.log\n`,
  );
  log.info({ signal: await ended }, 'ending');
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => process.exit(1));
  await api[Symbol.asyncDispose]();
  await running[Symbol.asyncDispose]();
  process.exit(EXIT_OK);
}
