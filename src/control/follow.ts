import type { JetStreamManager } from '@nats-io/jetstream';
import type { KV, KvEntry } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import { sleep } from '../base/async.ts';
import { persist } from './persist.ts';
import { AT_ONCE_MAX, RECONNECT_WAIT_MS, SETTLE_ATTEMPTS, SETTLE_MS } from './constants.ts';

/**
 * How an agent reads a bucket: by its keys and messages, without a consumer. Who may make a consumer may have it deliver to any
 * subject, and with that speak in anybody's name; so only the center may (registry/permissions.ts).
 */
export interface FollowedBucket {
  readonly connection: NatsConnection;
  readonly manager: JetStreamManager;
  readonly kv: KV;
  readonly bucket: string;
}

/** Keys that match, of records and of removed ones. */
export async function keysOf({ manager, bucket }: FollowedBucket, filter: string): Promise<string[]> {
  const prefix = `$KV.${bucket}.`;
  const info = await manager.streams.info(`KV_${bucket}`, { subjects_filter: prefix + filter });
  return Object.keys(info.state.subjects ?? {}).map((subject) => subject.slice(prefix.length));
}

export interface FollowedEntry {
  key: string;
  entry: KvEntry | null;
}

/**
 * The entries that are there, then `undefined` once, then each that changes, until `signal` aborts. A message on its subject only
 * says that a key may have changed: what was refused (another one was faster) is seen there, too. After a connection was lost everything
 * is looked at again.
 */
export async function* follow(
  bucket: FollowedBucket,
  filter: string,
  signal: AbortSignal,
): AsyncGenerator<FollowedEntry | undefined> {
  const { connection, kv } = bucket;
  const prefix = `$KV.${bucket.bucket}.`;
  const revisions = new Map<string, number>();
  const dirty = new Set<string>();
  let wake = (): void => {};
  let again = true;
  const subscription = connection.subscribe(prefix + filter, {
    callback: (error, message) => {
      if (error) return;
      dirty.add(message.subject.slice(prefix.length));
      wake();
    },
  });
  const statuses = connection.status();
  void (async () => {
    for await (const { type } of statuses) {
      if (type === 'reconnect') again = true;
      wake();
    }
  })();
  const onAbort = (): void => wake();
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    await persist('watch', () => connection.flush());
    let initial = true;
    while (!signal.aborted) {
      try {
        if (again) {
          again = false;
          const keys = new Set([
            ...(await persist(filter, () => keysOf(bucket, filter))),
            ...revisions.keys(),
          ]);
          for await (const found of entriesOf(kv, [...keys])) if (isNews(found, revisions)) yield found;
          if (initial) yield undefined;
          initial = false;
        }
        for (const key of dirty) {
          dirty.delete(key);
          const found = await settled(kv, key, revisions.get(key) ?? 0);
          if (found && isNews(found, revisions)) yield found;
        }
      } catch (error) {
        // a server that is away, and back in a moment; who cannot begin is told
        if (initial) throw error;
        again = true;
        await sleep(RECONNECT_WAIT_MS, signal).catch(() => {});
      }
      if (dirty.size > 0 || again || signal.aborted) continue;
      await new Promise<void>((resolve) => {
        wake = resolve;
        // what came since the last look
        if (dirty.size > 0 || again || signal.aborted) resolve();
      });
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    subscription.unsubscribe();
    (statuses as unknown as { stop?: () => void }).stop?.();
  }
}

/** Notes its revision. Of a key that has gone altogether the record counts as removed. */
function isNews({ key, entry }: FollowedEntry, revisions: Map<string, number>): boolean {
  const known = revisions.get(key);
  // removed before we came
  if (known === undefined && entry?.operation !== 'PUT') return false;
  if (!entry) {
    revisions.delete(key);
    return known !== undefined;
  }
  if (known === entry.revision) return false;
  revisions.set(key, entry.revision);
  return true;
}

/** The message comes before the record is stored, so it is waited for, shortly: what was refused never comes. */
async function settled(kv: KV, key: string, known: number): Promise<FollowedEntry | undefined> {
  for (let attempt = 0; attempt < SETTLE_ATTEMPTS; attempt += 1) {
    const entry = await kv.get(key);
    if ((entry?.revision ?? 0) > known) return { key, entry };
    await sleep(SETTLE_MS * 2 ** attempt);
  }
  return undefined;
}

async function* entriesOf(kv: KV, keys: readonly string[]): AsyncGenerator<FollowedEntry> {
  for (let at = 0; at < keys.length; at += AT_ONCE_MAX) {
    const some = keys.slice(at, at + AT_ONCE_MAX);
    yield* await Promise.all(
      some.map(async (key) => ({ key, entry: await persist(key, () => kv.get(key)) })),
    );
  }
}
