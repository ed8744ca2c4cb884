import { spawn } from 'node:child_process';
import { open, readFile, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import * as z from 'zod';
import { sleep, withTimeout } from '../base/async.ts';
import { asCloudapError } from '../base/errors.ts';
import {
  identityOf,
  isAlive,
  processIdentitySchema,
  type ProcessIdentity,
} from '../qemu/process-identity.ts';
import { formatAddress } from './config-text.ts';
import type { Address } from './config.ts';
import { GATEWAY_START_TIMEOUT_MS, GATEWAY_WATCH_INTERVAL_MS } from './constants.ts';
import { failSite } from './errors.ts';
import { readJson, writeJson } from './json-file.ts';

const program = fileURLToPath(new URL('../link/gateway-main.ts', import.meta.url));
const noteSchema = z.object({ identity: processIdentitySchema, host: z.string(), port: z.number() });
const readySchema = z.object({ ready: z.literal(true), pid: z.number() });

export interface GatewayOptions {
  listen: Address;
  linkDir: string;
  noteFile: string;
  logFile: string;
  log: Logger;
}

/**
 * The gateway as the agent sees it: a process of its own that outlives the agent, because movers' links pass through
 * it. An agent that starts adopts the one that is there.
 */
export class GatewayProcess {
  readonly #options: GatewayOptions;
  readonly #stop = new AbortController();
  #identity: ProcessIdentity;
  #watching: Promise<void> = Promise.resolve();

  private constructor(options: GatewayOptions, identity: ProcessIdentity) {
    this.#options = options;
    this.#identity = identity;
  }

  /** @throws SITE_GATEWAY */
  static async start(options: GatewayOptions): Promise<GatewayProcess> {
    const gateway = new GatewayProcess(options, (await adopt(options)) ?? (await launch(options)));
    gateway.#watching = gateway.#watch();
    return gateway;
  }

  get pid(): number {
    return this.#identity.pid;
  }

  async #watch(): Promise<void> {
    const { signal } = this.#stop;
    for (;;) {
      await sleep(GATEWAY_WATCH_INTERVAL_MS, signal).catch(() => {});
      if (signal.aborted) return;
      if (await isAlive(this.#identity)) continue;
      this.#options.log.error({ pid: this.pid }, 'the gateway ended; starting another');
      try {
        this.#identity = await launch(this.#options);
      } catch (error) {
        this.#options.log.error({ err: error }, 'gateway');
      }
    }
  }

  /** Stops looking after it; with `end` the process ends too, and with it every link that passes through. */
  async close(end: boolean): Promise<void> {
    this.#stop.abort();
    await this.#watching;
    if (!end) return;
    await terminate(this.#identity);
    await rm(this.#options.noteFile, { force: true });
  }
}

async function adopt(options: GatewayOptions): Promise<ProcessIdentity | undefined> {
  const note = await readJson(options.noteFile, noteSchema).catch(() => undefined);
  if (!note || !(await isAlive(note.identity))) return undefined;
  if (note.host === options.listen.host && note.port === options.listen.port) {
    options.log.info({ pid: note.identity.pid }, 'gateway adopted');
    return note.identity;
  }
  await terminate(note.identity);
  return undefined;
}

async function terminate(identity: ProcessIdentity): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (!(await isAlive(identity))) return;
    process.kill(identity.pid, signal);
    for (let i = 0; i < 40 && (await isAlive(identity)); i += 1) await sleep(50);
  }
}

async function launch(options: GatewayOptions): Promise<ProcessIdentity> {
  const { listen, linkDir, logFile, noteFile } = options;
  const log = await open(logFile, 'w', 0o600);
  try {
    const argument = JSON.stringify({ host: listen.host, port: listen.port, socketDir: linkDir });
    const child = spawn(process.execPath, [program, argument], {
      detached: true,
      stdio: ['ignore', 'pipe', log.fd],
    });
    const { stdout } = child;
    if (!stdout) throw failSite('SITE_GATEWAY', 'it has no output');
    const lines = createInterface({ input: stdout });
    const ready = new Promise<string>((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', (code) => reject(new Error(`exit code ${code}`)));
      lines.once('line', resolve);
    });
    const line = await withTimeout(ready, GATEWAY_START_TIMEOUT_MS, () => new Error('no answer')).catch(
      async (error: unknown) => {
        child.kill('SIGKILL');
        const said = asCloudapError(
          JSON.parse((await readFile(logFile, 'utf8').catch(() => '')) || 'null') ?? error,
        );
        throw failSite('SITE_GATEWAY', `${formatAddress(listen)}: ${said.message}`, { cause: error });
      },
    );
    readySchema.parse(JSON.parse(line));
    stdout.destroy();
    child.unref();
    const identity = await identityOf(child.pid ?? 0);
    if (!identity) throw failSite('SITE_GATEWAY', 'it ended at once');
    await writeJson(noteFile, { identity, host: listen.host, port: listen.port });
    options.log.info({ pid: identity.pid, listen: formatAddress(listen) }, 'gateway started');
    return identity;
  } finally {
    await log.close();
  }
}
