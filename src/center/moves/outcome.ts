import type { Logger } from 'pino';
import { sleep } from '../../base/async.ts';
import { asCloudapError } from '../../base/errors.ts';
import type { MoveRecord } from '../../control/messages.ts';
import type { ControlPlane } from '../../control/plane.ts';
import { request } from '../../control/requests.ts';
import { hostSubject, progressSubject } from '../../control/subjects.ts';
import { migrationViewSchema } from '../../host/messages.ts';
import type { MigrationView } from '../../site/api/messages.ts';
import { MOVE_LOST_MS, MOVE_POLL_MS } from '../constants.ts';
import { failCenter } from '../errors.ts';

export interface AwaitOptions {
  signal: AbortSignal;
  log: Logger;
  /** The source has been asked to begin, and has answered or may have. Before that nobody need know of it. */
  hasBegun: () => boolean;
  onProgress: (view: MigrationView) => void;
}

/**
 * Follows the migration of a move to its end. Its source tells of it; that word may get lost, so it is asked, too, and
 * where the source is gone its target.
 * @throws MOVE_LOST, MIGRATE_UNKNOWN when no host knows it; the signal's reason
 */
export async function awaitMigration(
  plane: ControlPlane,
  move: MoveRecord,
  options: AwaitOptions,
): Promise<MigrationView> {
  const { connection } = plane;
  const { signal, onProgress } = options;
  const told = connection.subscribe(progressSubject('migration', move.move));
  const ended = new AbortController();
  const stop = AbortSignal.any([signal, ended.signal]);
  try {
    return await Promise.race([listen(), poll(plane, move, stop, options)]);
  } finally {
    ended.abort();
    told.unsubscribe();
  }

  async function listen(): Promise<MigrationView> {
    for await (const message of told) {
      const view = migrationViewSchema.safeParse(tryJson(message.data)).data;
      if (!view || view.migrationId !== move.move) continue;
      onProgress(view);
      if (!view.active) return view;
    }
    // unsubscribed: the other one has the result
    return new Promise(() => {});
  }
}

async function poll(
  plane: ControlPlane,
  move: MoveRecord,
  signal: AbortSignal,
  { hasBegun, onProgress }: AwaitOptions,
): Promise<MigrationView> {
  let heardAtMs = performance.now();
  let unknown = 0;
  for (;;) {
    await sleep(MOVE_POLL_MS, signal);
    const wasBegun = hasBegun();
    const views = await Promise.allSettled(
      [move.from.host, move.to.host]
        .filter((host) => host !== null)
        .map((host) =>
          request(
            plane.connection,
            hostSubject(host, 'migration'),
            { move: move.move },
            migrationViewSchema,
            {
              timeoutMs: MOVE_POLL_MS,
            },
          ),
        ),
    );
    signal.throwIfAborted();
    const [source, target] = views;
    const codes = views.map((view) => (view.status === 'rejected' ? asCloudapError(view.reason).code : ''));
    if (source?.status === 'fulfilled') {
      onProgress(source.value);
      if (!source.value.active) return source.value;
    } else if (target?.status === 'fulfilled' && !target.value.active) return target.value;
    if (wasBegun && codes.every((code) => code === 'MIGRATE_UNKNOWN')) unknown += 1;
    // a host that has answered has written it down: who does not know it then never will
    if (unknown > 1)
      throw views[0]?.status === 'rejected' ? views[0].reason : failCenter('MOVE_LOST', move.move);
    if (codes.includes('')) heardAtMs = performance.now();
    if (performance.now() - heardAtMs > MOVE_LOST_MS) throw failCenter('MOVE_LOST', move.move);
  }
}

function tryJson(data: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(data).toString('utf8'));
  } catch {
    return undefined;
  }
}
