import { spawn } from 'node:child_process';
import { openSync, closeSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep } from '../../base/async.ts';
import { processAlive } from '../../base/process.ts';
import { RpcPeer } from '../../link/rpc.ts';
import { migrationFail } from '../messages.ts';
import { MOVER_NODE_FLAGS } from './limits.ts';
import { type MoverConfig, type MoverStatus, moverStatusSchema } from './config.ts';
import type { MoverHandle } from './handle.ts';

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url));
/**
 * Node keeps there what it has compiled, types stripped: a mover starts with 0.2 s of CPU time instead of 0.6 s, twice
 * on the way of every switch. Where it cannot write, Node goes on without.
 */
const COMPILE_CACHE = fileURLToPath(new URL('../../../.cache/compiled', import.meta.url));
const START_TIMEOUT_MS = 20_000;
const WATCH_INTERVAL_MS = 200;
const TAKE_BACK_TIMEOUT_MS = 60_000;

/**
 * Starts a mover as a process of its own and waits until it answers; a target's NBD socket is there by then.
 * @throws MOVER_START with the end of its log
 */
export async function startMover(config: MoverConfig): Promise<MoverHandle> {
  await mkdir(dirname(config.logPath), { recursive: true });
  const configPath = `${config.rpcSocket}.json`;
  await writeFile(configPath, JSON.stringify(config), { mode: 0o600 });
  const log = openSync(config.logPath, 'a', 0o600);
  const child = spawn(process.execPath, [...MOVER_NODE_FLAGS, MAIN, configPath], {
    detached: true,
    stdio: ['ignore', log, log],
    env: { NODE_COMPILE_CACHE: COMPILE_CACHE, ...process.env },
  });
  closeSync(log);
  child.on('error', () => {});
  child.unref();
  const { pid } = child;
  if (pid === undefined) throw migrationFail('MOVER_START', config.logPath);
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (processAlive(pid)) {
    try {
      return await Handle.connect(config.rpcSocket, pid);
    } catch (error) {
      if (performance.now() > deadline) {
        process.kill(pid, 'SIGKILL');
        throw migrationFail('MOVER_START', `${config.logPath}: no answer`, { cause: error });
      }
      await sleep(30);
    }
  }
  throw migrationFail(
    'MOVER_START',
    `${config.logPath}: ${readFileSync(config.logPath, 'utf8').slice(-800)}`,
  );
}

/** Takes over a mover that runs already. @throws what connecting throws */
export function adoptMover(rpcSocket: string, pid: number): Promise<MoverHandle> {
  return Handle.connect(rpcSocket, pid);
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
