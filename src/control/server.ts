import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { connect as connectTcp } from 'node:net';
import { join } from 'node:path';
import * as z from 'zod';
import { sleep } from '../base/async.ts';
import {
  identityOf,
  isAlive,
  processIdentitySchema,
  type ProcessIdentity,
} from '../qemu/process-identity.ts';
import {
  MESSAGE_MAX_BYTES,
  NATS_POLL_MS,
  NATS_RELOAD_TIMEOUT_MS,
  NATS_START_TIMEOUT_MS,
  NATS_WATCH_MS,
} from './constants.ts';
import { failControl } from './errors.ts';

export interface NatsUser {
  /** A URI in its certificate. */
  user: string;
  /** Subjects; undefined: all. */
  publish?: readonly string[];
  subscribe?: readonly string[];
}

export interface NatsServerOptions {
  dataDir: string;
  listen: { host: string; port: number };
  /** PEM files; without them the server takes anybody who reaches it, which only tests may want. */
  tls?: { ca: string; cert: string; key: string };
  /** Who may be there from the start; those that `setUsers` gave last stay. Without any, whoever has a certificate of the CA may do all. */
  users?: readonly NatsUser[];
  program?: string;
  /** It had ended and was started again, or could not be. */
  onRestarted?: (error: Error | undefined) => void;
}

/**
 * Our own `nats-server` with JetStream in `dataDir`: a process of its own that outlives whoever started it. A center that starts
 * adopts the one that is there; one that ends unasked is replaced, and has everything that it has confirmed.
 */
export class NatsServer {
  #options: NatsServerOptions;
  readonly #stop = new AbortController();
  #identity: ProcessIdentity;
  #watching: Promise<void> = Promise.resolve();

  private constructor(options: NatsServerOptions, identity: ProcessIdentity) {
    this.#options = options;
    this.#identity = identity;
  }

  /** Returns when it takes connections. @throws CONTROL_NATS */
  static async start(given: NatsServerOptions): Promise<NatsServer> {
    await mkdir(given.dataDir, { recursive: true, mode: 0o700 });
    const options = await withUsers(given);
    const server = new NatsServer(options, (await adopt(options)) ?? (await launch(options)));
    server.#watching = server.#watch();
    return server;
  }

  get pid(): number {
    return this.#identity.pid;
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stop;
    for (;;) {
      await sleep(NATS_WATCH_MS, signal).catch(() => {});
      if (signal.aborted) return;
      if (await isAlive(this.#identity)) continue;
      try {
        this.#identity = await launch(this.#options);
        this.#options.onRestarted?.(undefined);
      } catch (error) {
        this.#options.onRestarted?.(error as Error);
      }
    }
  }

  /** Other users from now on; connections of those that are gone are closed at once. */
  async setUsers(users: readonly NatsUser[]): Promise<void> {
    const next = { ...this.#options, users };
    if (configText(next) === configText(this.#options)) return;
    this.#options = next;
    await writeFile(usersFile(next.dataDir), JSON.stringify(users), { mode: 0o600 });
    await writeConfig(next);
    if (await isAlive(this.#identity)) await reload(next.dataDir, this.pid);
  }

  /** Ends it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#watching;
    await terminate(this.#identity);
    await rm(noteFile(this.#options.dataDir), { force: true });
  }
}

async function adopt(options: NatsServerOptions): Promise<ProcessIdentity | undefined> {
  let identity: ProcessIdentity | undefined;
  try {
    identity = processIdentitySchema.parse(JSON.parse(await readFile(noteFile(options.dataDir), 'utf8')));
  } catch {
    return undefined;
  }
  if (!(await isAlive(identity))) return undefined;
  const before = await readFile(configFile(options.dataDir), 'utf8').catch(() => '');
  if (before === configText(options)) return identity;
  if (withoutUsers(before) === withoutUsers(configText(options))) {
    await writeConfig(options);
    await reload(options.dataDir, identity.pid);
    return identity;
  }
  await terminate(identity);
  return undefined;
}

async function launch(options: NatsServerOptions): Promise<ProcessIdentity> {
  const { dataDir, listen, program = 'nats-server' } = options;
  await writeConfig(options);
  const logPath = logFile(dataDir);
  const log = await open(logPath, 'w', 0o600);
  try {
    const child = spawn(program, ['-c', configFile(dataDir)], {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    try {
      await once(child, 'spawn');
    } catch (cause) {
      throw failControl('CONTROL_NATS', `${program}: ${(cause as Error).message}`, { cause });
    }
    child.unref();
    const identity = await identityOf(child.pid ?? 0);
    if (!identity) throw failControl('CONTROL_NATS', await readFile(logPath, 'utf8'));
    await writeFile(noteFile(dataDir), JSON.stringify(identity), { mode: 0o600 });
    const untilMs = performance.now() + NATS_START_TIMEOUT_MS;
    while ((await isAlive(identity)) && performance.now() < untilMs) {
      if ((await readFile(logPath, 'utf8')).includes('Server is ready') && (await reachable(listen)))
        return identity;
      await sleep(NATS_POLL_MS);
    }
    child.kill('SIGKILL');
    throw failControl('CONTROL_NATS', (await readFile(logPath, 'utf8')).trim().slice(-600));
  } finally {
    await log.close();
  }
}

async function terminate(identity: ProcessIdentity): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!(await isAlive(identity))) return;
    process.kill(identity.pid, signal);
    for (let i = 0; i < 100 && (await isAlive(identity)); i += 1) await sleep(NATS_POLL_MS);
  }
}

/** Has it read its configuration again; connections of users that are gone are closed by then. @throws CONTROL_NATS */
async function reload(dataDir: string, pid: number): Promise<void> {
  const log = logFile(dataDir);
  const count = async (): Promise<number> => (await readFile(log, 'utf8')).split(RELOADED).length;
  const before = await count();
  process.kill(pid, 'SIGHUP');
  const untilMs = performance.now() + NATS_RELOAD_TIMEOUT_MS;
  while ((await count()) === before) {
    if (performance.now() > untilMs)
      throw failControl(
        'CONTROL_NATS',
        `it does not take its configuration: ${(await readFile(log, 'utf8')).trim().slice(-600)}`,
      );
    await sleep(NATS_POLL_MS);
  }
}

const RELOADED = 'Reloaded server configuration';

const usersSchema = z.array(
  z.object({
    user: z.string(),
    publish: z.array(z.string()).optional(),
    subscribe: z.array(z.string()).optional(),
  }),
);

/** Those that were there last and those that must be there, so that a server that starts before its center's records are read knows both. */
async function withUsers(options: NatsServerOptions): Promise<NatsServerOptions> {
  const { users, dataDir } = options;
  if (!users) return options;
  const text = await readFile(usersFile(dataDir), 'utf8').catch(() => '[]');
  const before = usersSchema.safeParse(JSON.parse(text)).data ?? [];
  const wanted = new Set(users.map(({ user }) => user));
  const kept = before.filter(({ user }) => !wanted.has(user)) as NatsUser[];
  const all = [...users, ...kept].toSorted((a, b) => (a.user < b.user ? -1 : 1));
  return { ...options, users: all };
}

function withoutUsers(text: string): string {
  try {
    return JSON.stringify({ ...(JSON.parse(text) as object), authorization: undefined });
  } catch {
    return text;
  }
}

const usersFile = (dataDir: string): string => join(dataDir, 'users.json');
const logFile = (dataDir: string): string => join(dataDir, 'nats.log');
const noteFile = (dataDir: string): string => join(dataDir, 'nats.json');
const configFile = (dataDir: string): string => join(dataDir, 'nats.conf');

async function writeConfig(options: NatsServerOptions): Promise<void> {
  await writeFile(configFile(options.dataDir), configText(options), { mode: 0o600 });
}

function configText(options: NatsServerOptions): string {
  const { dataDir, listen, tls, users } = options;
  // JSON is a subset of what nats-server reads
  const config = {
    listen: `${listen.host}:${listen.port}`,
    max_payload: MESSAGE_MAX_BYTES + 64 * 1024,
    jetstream: { store_dir: join(dataDir, 'jetstream') },
    ...(tls
      ? {
          tls: {
            ca_file: tls.ca,
            cert_file: tls.cert,
            key_file: tls.key,
            ...(users ? { verify_and_map: true } : { verify: true }),
          },
        }
      : {}),
    ...(users ? { authorization: { users: users.map(natsUser) } } : {}),
  };
  return `${JSON.stringify(config, undefined, 2)}\n`;
}

function natsUser({ user, publish, subscribe }: NatsUser): object {
  if (!publish && !subscribe) return { user };
  return {
    user,
    permissions: {
      publish: { allow: publish ?? [] },
      subscribe: { allow: subscribe ?? [] },
      // the inbox of whoever asked, once
      allow_responses: true,
    },
  };
}

async function reachable({ host, port }: { host: string; port: number }): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connectTcp(port, host === '0.0.0.0' ? '127.0.0.1' : host);
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('close', () => socket.destroy());
    socket.once('connect', () => socket.destroy());
  });
}
