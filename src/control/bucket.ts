import { JetStreamApiError } from '@nats-io/jetstream';
import type { KV, KvEntry } from '@nats-io/kv';
import type * as z from 'zod';
import { MESSAGE_MAX_BYTES } from './constants.ts';
import { failControl } from './errors.ts';
import { follow, keysOf, type FollowedBucket } from './follow.ts';
import { persist } from './persist.ts';

/** NATS: the revision that the writer expected is not the last one. */
const WRONG_LAST_SEQUENCE = 10_071;

export interface Versioned<T> {
  value: T;
  revision: number;
}

export interface Change<T> {
  key: string;
  /** Undefined: it was removed. */
  value: T | undefined;
  /** Whether it was there before the watch began. */
  initial: boolean;
  /** True of the last of the initial ones. */
  complete: boolean;
}

/** A bucket of records of one shape. What is read is checked; a record that is not as it should be counts as not there. */
export class Bucket<S extends z.ZodType> {
  readonly #kv: KV;
  readonly #schema: S;
  readonly #onBad: (key: string, problem: string) => void;
  readonly #followed: FollowedBucket | undefined;

  /** With `followed` it is read as an agent may (follow.ts). */
  constructor(kv: KV, schema: S, onBad: (key: string, problem: string) => void, followed?: FollowedBucket) {
    this.#followed = followed;
    this.#kv = kv;
    this.#schema = schema;
    this.#onBad = onBad;
  }

  #encode(value: z.input<S>): string {
    const text = JSON.stringify(this.#schema.parse(value));
    if (Buffer.byteLength(text) > MESSAGE_MAX_BYTES)
      throw failControl('CONTROL_TOO_LARGE', `a record of ${Buffer.byteLength(text)} bytes`);
    return text;
  }

  #decode(entry: KvEntry): z.output<S> | undefined {
    if (entry.operation !== 'PUT') return undefined;
    if (entry.value.byteLength > MESSAGE_MAX_BYTES) {
      this.#onBad(entry.key, `${entry.value.byteLength} bytes`);
      return undefined;
    }
    let raw: unknown;
    try {
      raw = entry.json();
    } catch {
      this.#onBad(entry.key, 'no JSON');
      return undefined;
    }
    const parsed = this.#schema.safeParse(raw);
    if (parsed.success) return parsed.data;
    this.#onBad(entry.key, parsed.error.issues[0]?.message ?? 'another shape');
    return undefined;
  }

  /** @throws CONTROL_UNREACHABLE */
  async get(key: string): Promise<Versioned<z.output<S>> | undefined> {
    const entry = await persist(key, () => this.#kv.get(key));
    const value = entry ? this.#decode(entry) : undefined;
    return entry && value !== undefined ? { value, revision: entry.revision } : undefined;
  }

  /** Of a record that only this process writes. @throws CONTROL_UNREACHABLE */
  async put(key: string, value: z.input<S>): Promise<number> {
    const text = this.#encode(value);
    return persist(key, () => this.#kv.put(key, text));
  }

  /** @throws CONTROL_CONFLICT when there is one already, CONTROL_UNREACHABLE */
  async create(key: string, value: z.input<S>): Promise<number> {
    const text = this.#encode(value);
    return this.#exclusive(key, text, () => this.#kv.create(key, text));
  }

  /** Compare-and-swap. @throws CONTROL_CONFLICT, CONTROL_UNREACHABLE */
  async update(key: string, value: z.input<S>, revision: number): Promise<number> {
    const text = this.#encode(value);
    return this.#exclusive(key, text, () => this.#kv.update(key, text, revision));
  }

  async #exclusive(key: string, text: string, write: () => Promise<number>): Promise<number> {
    let attempts = 0;
    return persist(key, async () => {
      attempts += 1;
      try {
        return await write();
      } catch (error) {
        if (!(error instanceof JetStreamApiError) || error.code !== WRONG_LAST_SEQUENCE) throw error;
        // an attempt whose answer got lost may have been the one that changed it
        const entry = attempts > 1 ? await this.#kv.get(key) : null;
        if (entry?.string() === text) return entry.revision;
        throw failControl('CONTROL_CONFLICT', key, { cause: error });
      }
    });
  }

  /** Also of one that is not there. @throws CONTROL_UNREACHABLE */
  async remove(key: string): Promise<void> {
    await persist(key, () => this.#kv.delete(key));
  }

  /** Keys that match a pattern (`host1.>`), without their records. @throws CONTROL_UNREACHABLE */
  async keys(filter: string): Promise<string[]> {
    const followed = this.#followed;
    if (followed)
      return persist(filter, async () => {
        const keys = await keysOf(followed, filter);
        const entries = await Promise.all(keys.map((key) => this.#kv.get(key)));
        return keys.filter((_, i) => entries[i]?.operation === 'PUT');
      });
    return persist(filter, async () => {
      const found: string[] = [];
      for await (const key of await this.#kv.keys(filter)) found.push(key);
      return found;
    });
  }

  /** All records, once. */
  async all(): Promise<Map<string, z.output<S>>> {
    const found = new Map<string, z.output<S>>();
    for await (const { key, value, complete } of this.watch()) {
      if (value !== undefined) found.set(key, value);
      if (complete) break;
    }
    return found;
  }

  /**
   * The records that are there, then each change, until `signal` aborts. `complete` comes once: with the last of those that
   * are there, or after them with an empty key. `filter`: of keys that match it (`site1.>`).
   */
  async *watch(signal?: AbortSignal, filter?: string): AsyncGenerator<Change<z.output<S>>> {
    signal?.throwIfAborted();
    if (this.#followed) {
      yield* this.#follow(this.#followed, filter ?? '>', signal);
      return;
    }
    const watch = await persist('watch', () => this.#kv.watch(filter === undefined ? {} : { key: filter }));
    // asked for afterwards: what is written in between comes as an update, and ends the initial ones just as well
    const count =
      filter === undefined
        ? (await persist('watch', () => this.#kv.status())).values
        : (await this.keys(filter)).length;
    const stop = (): void => watch.stop();
    signal?.addEventListener('abort', stop, { once: true });
    try {
      let initial = count > 0;
      if (!initial) yield { key: '', value: undefined, initial: true, complete: true };
      for await (const entry of watch) {
        const complete = initial && (entry.delta ?? 0) === 0;
        yield { key: entry.key, value: this.#decode(entry), initial, complete };
        if (complete) initial = false;
      }
    } finally {
      signal?.removeEventListener('abort', stop);
      watch.stop();
    }
  }

  async *#follow(
    followed: FollowedBucket,
    filter: string,
    signal: AbortSignal = new AbortController().signal,
  ): AsyncGenerator<Change<z.output<S>>> {
    let initial = true;
    for await (const found of follow(followed, filter, signal)) {
      const { key, entry } = found ?? { key: '', entry: null };
      const value = entry ? this.#decode(entry) : undefined;
      yield { key, value, initial, complete: found === undefined };
      if (!found) initial = false;
    }
  }
}
