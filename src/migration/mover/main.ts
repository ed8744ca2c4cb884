/**
 * The mover process. It loads its program and waits for the path of its configuration, one line on its standard input; a
 * parent that ends before has no use for it. Then its agent talks to it over `rpcSocket`, and it outlives its agent. It
 * writes one line on its standard output, when it serves.
 */
import { readFileSync } from 'node:fs';
import { chmod, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { createInterface } from 'node:readline';
import { destination, pino } from 'pino';
import { asCloudapError } from '../../base/errors.ts';
import { RpcPeer } from '../../link/rpc.ts';
import { ContentReader } from '../../content/pages/reader.ts';
import { migrationFail } from '../messages.ts';
import { isBeforeSwitch, isTerminal } from '../state.ts';
import { type MoverConfig, moverConfigSchema } from './config.ts';
import { MoverContext } from './context.ts';
import { rehearse } from './rehearse.ts';
import { SourceMover } from './source.ts';
import { TargetMover } from './target.ts';

/** A finished mover stays this long for an agent that wants to hear how it ended. */
const LINGER_MS = 1_000;
/** A mover that is to wait goes through its paces; one that is needed at once has no time for it. */
const REHEARSE_AFTER_MS = 300;
/** Status messages that an agent may leave unread before its connection is closed. */
const MAX_UNREAD_BYTES = 256 * 1024;

/** Exit codes: 0 completed, 1 failed or cancelled, 2 bad configuration. */
async function main(configPath: string): Promise<number> {
  let config: MoverConfig;
  try {
    config = moverConfigSchema.parse(JSON.parse(readFileSync(configPath, 'utf8')));
  } catch (error) {
    process.stderr.write(`mover: ${configPath}: ${(error as Error).message}\n`);
    return 2;
  }
  await rm(configPath, { force: true });
  const log = pino(
    { base: { migrationId: config.migrationId, role: config.role } },
    destination({ dest: config.logPath, sync: true, mode: 0o600 }),
  );
  process.on('uncaughtExceptionMonitor', (err) => log.fatal({ err }, 'crashed'));
  const context = new MoverContext(config, log);
  for (const name of ['SIGTERM', 'SIGINT'] as const) process.on(name, () => onSignal(context, name));
  await using mover =
    config.role === 'source' ? new SourceMover(config, context) : new TargetMover(config, context);
  // only a target reads pages
  if (config.role === 'source') void ContentReader.endAhead();
  let code = 0;
  let server: Server | undefined;
  try {
    await mover.listen();
    server = await serveAgent(config.rpcSocket, context, {
      takeBack: async () => {
        if (!(mover instanceof SourceMover)) throw migrationFail('MOVER_TOO_LATE', 'not the source');
        await mover.takeBack();
      },
      qemuStarted: () => {
        if (!(mover instanceof TargetMover)) throw migrationFail('MOVER_PROTOCOL', 'not the target');
        mover.qemuStarted();
      },
    });
    process.stdout.write('serving\n');
    await mover.run();
  } catch (error) {
    log.error({ err: asCloudapError(error) }, 'ended');
    code = 1;
  }
  // the agent may be reading the last status
  await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
  server?.close();
  await rm(config.rpcSocket, { force: true });
  return code;
}

/** Before the switch a signal cancels; afterwards both sides depend on this process, and only SIGKILL ends it. */
function onSignal(context: MoverContext, name: string): void {
  try {
    cancel(context, name);
  } catch (err) {
    context.log.warn({ err, signal: name }, 'ignored');
  }
}

/** @throws MOVER_TOO_LATE */
function cancel(context: MoverContext, reason: string): void {
  if (!isBeforeSwitch(context.states.state) && !isTerminal(context.states.state))
    throw migrationFail('MOVER_TOO_LATE');
  context.cancelled.abort(migrationFail('MOVER_CANCELLED', reason));
}

async function serveAgent(
  path: string,
  context: MoverContext,
  agent: { takeBack: () => Promise<void>; qemuStarted: () => void },
): Promise<Server> {
  await rm(path, { force: true });
  const server = createServer((socket) => {
    const peer = new RpcPeer(socket, {
      handlers: {
        status: () => Promise.resolve(context.status()),
        cancel: (params) => {
          const { reason } = params as { reason?: unknown };
          cancel(context, typeof reason === 'string' ? reason : 'asked by the agent');
          return Promise.resolve({});
        },
        takeBack: async () => {
          await agent.takeBack();
          return {};
        },
        qemuStarted: () => {
          agent.qemuStarted();
          return Promise.resolve({});
        },
      },
    });
    const stop = context.onStatus((status) => {
      // an agent that does not read is no reason to keep what it does not hear
      if (socket.writableLength > MAX_UNREAD_BYTES) peer.close();
      if (!peer.isClosed) peer.notify('status', status);
    });
    void peer.closed.then(stop);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  await chmod(path, 0o600);
  return server;
}

/** The first line of standard input; undefined if it ends before. */
async function firstLine(): Promise<string | undefined> {
  for await (const line of createInterface({ input: process.stdin })) return line;
  return undefined;
}

// the agent may go at any time, and its end of the pipe with it
process.stdout.on('error', () => {});
const rehearsal = setTimeout(() => {
  rehearse();
  ContentReader.startAhead();
}, REHEARSE_AFTER_MS);
const configPath = await firstLine();
clearTimeout(rehearsal);
if (configPath !== undefined) process.exitCode = await main(configPath);
process.exit();
