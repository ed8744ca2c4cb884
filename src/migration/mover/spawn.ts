import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep } from '../../base/async.ts';
import { processAlive } from '../../base/process.ts';
import { RpcPeer } from '../../link/rpc.ts';
import {
  identityOf,
  isAlive,
  type ProcessIdentity,
  processIdentitySchema,
} from '../../qemu/process-identity.ts';
import { migrationFail } from '../messages.ts';
import { MOVER_NODE_FLAGS } from './limits.ts';
import { type MoverConfig, type MoverStatus, moverStatusSchema } from './config.ts';
import type { MoverHandle } from './handle.ts';

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));
/**
 * Node keeps there what it has compiled, types stripped: a mover starts with 0.2 s of CPU time instead of 0.6 s. Where it
 * cannot write, Node goes on without.
 */
const COMPILE_CACHE = fileURLToPath(new URL('../../../.cache/compiled', import.meta.url));
const START_TIMEOUT_MS = 20_000;
/** A pool starts its next mover when the one that it gave away has most likely ended. */
const REFILL_DELAY_MS = 10_000;
const WATCH_INTERVAL_MS = 200;
const TAKE_BACK_TIMEOUT_MS = 60_000;
/** How long a mover that runs may be deaf to an agent that wants to adopt it, and the pause between attempts. */
const ADOPT_TIMEOUT_MS = 10_000;
const ADOPT_RETRY_MS = 50;
/** The end of a log that is shown of a mover that did not start. */
const LOG_TAIL_CHARS = 800;

/**
 * A mover process that has loaded its program and waits to be told what to do. Loading takes some tenths of a second, on
 * the way of every switch: so an agent keeps one that waits (MoverPool). It ends with its parent.
 */
class WaitingMover {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #logPath: string;

  /** `logPath`: where a mover that dies before it has a log of its own leaves its last words. @throws MOVER_START */
  constructor(logPath: string) {
    const log = openSync(logPath, 'a', 0o600);
    const child = spawn(process.execPath, [...MOVER_NODE_FLAGS, MAIN], {
      detached: true,
      stdio: ['pipe', 'pipe', log],
      env: { NODE_COMPILE_CACHE: COMPILE_CACHE, ...process.env },
    });
    closeSync(log);
    child.on('error', () => {});
    child.stdin?.on('error', () => {});
    child.unref();
    for (const pipe of [child.stdin, child.stdout]) (pipe as Socket | null)?.unref();
    if (child.pid === undefined) throw migrationFail('MOVER_START', logPath);
    this.pid = child.pid;
    this.#child = child;
    this.#logPath = logPath;
  }

  get alive(): boolean {
    return processAlive(this.pid);
  }

  /** Has it become the mover of this configuration; resolves when it answers. @throws MOVER_START with the end of its log */
  async start(config: MoverConfig): Promise<Handle> {
    const configPath = `${config.rpcSocket}.json`;
    await mkdir(dirname(config.logPath), { recursive: true });
    // noted before it begins: an agent that is killed meanwhile leaves a mover that can be found
    const identity = await identityOf(this.pid);
    if (identity) await writeFile(pidFileOf(config.rpcSocket), JSON.stringify(identity), { mode: 0o600 });
    await writeFile(configPath, JSON.stringify(config), { mode: 0o600 });
    const timeout = AbortSignal.timeout(START_TIMEOUT_MS);
    const { stdin, stdout } = this.#child;
    try {
      const serving = stdout ? once(stdout, 'data', { signal: timeout }) : Promise.resolve();
      const gone = this.#gone(timeout);
      for (const promise of [serving, gone]) promise.catch(() => {});
      stdin?.end(`${configPath}\n`);
      if ((await Promise.race([serving, gone])) !== 'gone')
        return await Handle.connect(config.rpcSocket, this.pid);
    } catch (cause) {
      if (this.alive) process.kill(this.pid, 'SIGKILL');
      throw migrationFail('MOVER_START', `${config.logPath}: no answer`, { cause });
    } finally {
      stdout?.destroy();
    }
    throw migrationFail('MOVER_START', `${config.logPath}: ${tail(config.logPath)}${tail(this.#logPath)}`);
  }

  /** Nobody needs it. */
  end(): void {
    this.#child.stdin?.destroy();
    this.#child.stdout?.destroy();
  }

  async #gone(signal: AbortSignal): Promise<'gone'> {
    while (this.alive) await sleep(WATCH_INTERVAL_MS, signal);
    return 'gone';
  }
}

function tail(path: string): string {
  try {
    return readFileSync(path, 'utf8').slice(-LOG_TAIL_CHARS);
  } catch {
    return '';
  }
}

/** Holds the identity of the mover that serves this socket. */
export function pidFileOf(rpcSocket: string): string {
  return `${rpcSocket}.pid`;
}

/**
 * Starts a mover as a process of its own and waits until it answers; a target's NBD socket is there by then.
 * @throws MOVER_START with the end of its log
 */
export async function startMover(config: MoverConfig): Promise<MoverHandle> {
  await mkdir(dirname(config.logPath), { recursive: true });
  return new WaitingMover(config.logPath).start(config);
}

/** Starts movers, and has the next one waiting. */
export class MoverPool implements Disposable {
  readonly #logPath: string;
  #waiting: WaitingMover | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** `logPath`: for what movers say before they have a log of their own. */
  constructor(logPath: string) {
    this.#logPath = logPath;
    this.#refill(0);
  }

  /** @throws MOVER_START with the end of its log */
  async start(config: MoverConfig): Promise<MoverHandle> {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    // not now: what is under way needs the processors
    this.#refill(REFILL_DELAY_MS);
    return waiting?.alive ? waiting.start(config) : startMover(config);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#waiting?.end();
    this.#waiting = undefined;
  }

  #refill(delayMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      try {
        this.#waiting ??= new WaitingMover(this.#logPath);
      } catch {
        // the next start makes one itself, and says what is wrong
      }
    }, delayMs);
    this.#timer.unref();
  }
}

/**
 * Takes over the mover that serves this socket; undefined if none runs. One that runs but does not answer is ended: what
 * that means the ownership file says.
 */
export async function adoptMover(rpcSocket: string): Promise<MoverHandle | undefined> {
  const identity = await readIdentity(pidFileOf(rpcSocket));
  if (!identity) return undefined;
  const deadlineMs = performance.now() + ADOPT_TIMEOUT_MS;
  while (await isAlive(identity)) {
    try {
      return await Handle.connect(rpcSocket, identity.pid);
    } catch {
      if (performance.now() > deadlineMs) break;
      await sleep(ADOPT_RETRY_MS);
    }
  }
  if (await isAlive(identity)) process.kill(identity.pid, 'SIGKILL');
  while (await isAlive(identity)) await sleep(ADOPT_RETRY_MS);
  return undefined;
}

async function readIdentity(path: string): Promise<ProcessIdentity | undefined> {
  try {
    return processIdentitySchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    // never written: the mover has had no configuration, and has ended with its parent
    return undefined;
  }
}

class Handle implements MoverHandle {
  readonly pid: number;
  readonly exited: Promise<MoverStatus | undefined>;
  readonly #peer: RpcPeer;
  readonly #listeners = new Set<(status: MoverStatus) => void>();
  #status: MoverStatus | undefined;
  #ended = false;

  private constructor(pid: number, peerOf: (onStatus: (params: unknown) => Promise<unknown>) => RpcPeer) {
    this.pid = pid;
    this.#peer = peerOf((params) => {
      this.#take(params);
      return Promise.resolve({});
    });
    this.exited = this.#watch();
  }

  static async connect(rpcSocket: string, pid: number): Promise<Handle> {
    const socket = connect(rpcSocket);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const handle = new Handle(pid, (status) => new RpcPeer(socket, { handlers: { status } }));
    handle.#take(await handle.#peer.call('status'));
    return handle;
  }

  get status(): MoverStatus | undefined {
    return this.#status;
  }

  onStatus(listener: (status: MoverStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async cancel(reason: string): Promise<void> {
    await this.#peer.call('cancel', { reason });
  }

  async qemuStarted(): Promise<void> {
    await this.#peer.call('qemuStarted');
  }

  async takeBack(): Promise<void> {
    await this.#peer.call('takeBack', {}, { timeoutMs: TAKE_BACK_TIMEOUT_MS });
  }

  async kill(): Promise<void> {
    // once it has ended its pid may be another's
    if (!this.#ended && processAlive(this.pid)) process.kill(this.pid, 'SIGKILL');
    await this.exited;
  }

  /** Lets go of the mover, which goes on. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#peer.close();
    await this.#peer.closed;
  }

  #take(params: unknown): void {
    this.#status = moverStatusSchema.parse(params);
    for (const listener of this.#listeners) listener(this.#status);
  }

  async #watch(): Promise<MoverStatus | undefined> {
    await this.#peer.closed;
    while (processAlive(this.pid)) await sleep(WATCH_INTERVAL_MS);
    this.#ended = true;
    return this.#status;
  }
}
