import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { MOVER_NODE_FLAGS } from '../../migration/mover/limits.ts';
import { STAGE_END_TIMEOUT_MS } from '../constants.ts';
import { type StageConfig, type StageOrder, type StageStatus, stageStatusSchema } from './process-config.ts';

const MAIN = fileURLToPath(new URL('process-main.ts', import.meta.url));
const SAID_CHARS = 2000;

/** The process of a push, seen from its agent. */
export interface StageProcess extends AsyncDisposable {
  readonly pid: number;
  /** The last word, which has `error` unless all went well; undefined if it ended without one. */
  readonly ended: Promise<StageStatus | undefined>;
  /** What it wrote to stderr last: nothing, unless it broke. */
  readonly said: string;
  /** Resolves when it has opened its end of the link; also when it has ended. */
  readonly ready: Promise<void>;
  cancel(): void;
  pause(paused: boolean): void;
}

export type StartStageProcess = (
  config: StageConfig,
  onStatus: (status: StageStatus) => void,
) => StageProcess;

/** Starts the process of a push; it ends with this one. */
export const startStageProcess: StartStageProcess = (config, onStatus) => new Child(config, onStatus);

class Child implements StageProcess {
  readonly pid: number;
  readonly ended: Promise<StageStatus | undefined>;
  readonly ready: Promise<void>;
  said = '';
  readonly #child: ChildProcess;

  constructor(config: StageConfig, onStatus: (status: StageStatus) => void) {
    const child = spawn(process.execPath, [...MOVER_NODE_FLAGS, MAIN], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    });
    this.#child = child;
    this.pid = child.pid ?? 0;
    child.stderr?.on('data', (data: Buffer) => {
      this.said = (this.said + data.toString('utf8')).slice(-SAID_CHARS);
    });
    child.on('error', (error) => {
      this.said += error.message;
    });
    const ready = Promise.withResolvers<void>();
    this.ready = ready.promise;
    let last: StageStatus | undefined;
    child.on('message', (message) => {
      const status = stageStatusSchema.safeParse(message).data;
      if (!status) return;
      last = status;
      ready.resolve();
      onStatus(status);
    });
    this.ended = once(child, child.pid === undefined ? 'error' : 'close').then(() => {
      ready.resolve();
      const final = last && ['completed', 'failed', 'cancelled'].includes(last.state);
      return final ? last : undefined;
    });
    this.#order({ kind: 'run', config });
  }

  cancel(): void {
    this.#order({ kind: 'cancel' });
  }

  pause(paused: boolean): void {
    this.#order({ kind: 'pause', paused });
  }

  #order(order: StageOrder): void {
    if (this.#child.connected) this.#child.send(order, () => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    const kill = setTimeout(() => this.#child.kill('SIGKILL'), STAGE_END_TIMEOUT_MS);
    await this.ended;
    clearTimeout(kill);
  }
}
