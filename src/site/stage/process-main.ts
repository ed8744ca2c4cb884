/**
 * The process of one push at one side: hashing, compressing and writing gigabytes is no work for an agent. It is told
 * what to do over Node's channel to its parent, tells how far it is, and ends with its agent: what has arrived stays, and
 * the same push goes on from there.
 */
import { asCloudapError } from '../../base/errors.ts';
import { artefactKinds } from '../../content/staging/artefact.ts';
import { fail } from '../../content/staging/errors.ts';
import { StageReceiver } from '../../content/staging/receive.ts';
import { StageSender } from '../../content/staging/send.ts';
import type { LinkSession } from '../../link/types.ts';
import { openLink } from '../../migration/mover/link.ts';
import { STAGE_STATUS_INTERVAL_MS } from '../constants.ts';
import { type StageConfig, stageOrderSchema, type StageStatus } from './process-config.ts';

const cancelled = new AbortController();
let pause: (paused: boolean) => void = () => {};

function send(status: StageStatus): void {
  if (process.connected) process.send?.(status);
}

async function run(config: StageConfig): Promise<number> {
  const kind = artefactKinds[config.kind];
  const artefact = kind.parse(config.manifest);
  const end =
    config.role === 'source'
      ? new StageSender(artefact, config.folder)
      : new StageReceiver(kind, artefact, config.folder);
  end.pause(config.paused);
  pause = (paused) => end.pause(paused);
  const session = await openLink({ ...config, migrationId: config.pushId }, (type, payload) =>
    end.handle(type, payload),
  );
  const status = (state: StageStatus['state'], error: StageStatus['error'] = null): StageStatus => ({
    ...end.progress(),
    state,
    ...figures(session),
    error,
  });
  let told = '';
  const tell = (): void => {
    const now = status(end.progress().state);
    const text = JSON.stringify(now);
    if (text !== told) send(now);
    told = text;
  };
  tell();
  const timer = setInterval(tell, STAGE_STATUS_INTERVAL_MS);
  try {
    await end.run(session, cancelled.signal);
    send(status('completed'));
    return 0;
  } catch (thrown) {
    const { code, message, remedy } = asCloudapError(thrown);
    send(status(code === 'STAGE_CANCELLED' ? 'cancelled' : 'failed', { code, message, remedy }));
    return 1;
  } finally {
    clearInterval(timer);
  }
}

function figures(session: LinkSession): Pick<StageStatus, 'wireBytes' | 'rateMbit' | 'link'> {
  const { urgent, bulk, rateMbit } = session.stats();
  return {
    wireBytes: urgent.bytesSent + urgent.bytesReceived + bulk.bytesSent + bulk.bytesReceived,
    rateMbit: rateMbit ?? null,
    link: session.state,
  };
}

const ordered = Promise.withResolvers<StageConfig>();
process.on('message', (message) => {
  const order = stageOrderSchema.parse(message);
  if (order.kind === 'run') ordered.resolve(order.config);
  else if (order.kind === 'pause') pause(order.paused);
  else cancelled.abort(fail('STAGE_CANCELLED'));
});
// the agent has ended, however
process.on('disconnect', () => {
  cancelled.abort(fail('STAGE_PROCESS', 'its agent has ended'));
  ordered.reject(new Error('no order came'));
});
// signals are for the agent, which tells us
for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => {});

process.exitCode = await run(await ordered.promise);
if (process.connected) process.disconnect();
process.exit();
