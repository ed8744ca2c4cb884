import type { Logger } from 'pino';
import type { MigrationRecord } from '../record.ts';
import { MigrationStateMachine } from '../state.ts';
import type { MoverConfig, MoverStatus } from './config.ts';

const PROGRESS_INTERVAL_MS = 250;
/** While the VM stands still the agent, and whoever follows it, are not woken: a switch that takes longer they hear of then. */
const SWITCHING_UNTOLD_MS = 100;

/** What both roles share: state, progress, and telling the agent about them. */
export class MoverContext {
  readonly log: Logger;
  readonly states = new MigrationStateMachine();
  /** Aborted when the agent cancels; the reason is the error to report. */
  readonly cancelled = new AbortController();
  readonly #config: MoverConfig;
  readonly #listeners = new Set<(status: MoverStatus) => void>();
  readonly #timer: NodeJS.Timeout;
  #status: MoverStatus;
  #progress: () => Partial<Pick<MoverStatus, 'link' | 'progress'>> = () => ({});
  #told = '';
  #untold: NodeJS.Timeout | undefined;

  constructor(config: MoverConfig, log: Logger) {
    this.#config = config;
    this.log = log;
    this.#status = {
      migrationId: config.migrationId,
      role: config.role,
      state: this.states.state,
      link: 'connecting',
      progress: { pagesDone: 0, pagesTotal: 0, blocksDone: 0, blocksTotal: 0, bytesSent: 0, rateMbit: null },
      error: null,
      record: null,
    };
    this.states.onChange((state) => {
      this.log.info({ state }, 'state');
      this.#update({ state });
    });
    this.#timer = setInterval(() => this.#update({}), PROGRESS_INTERVAL_MS);
    this.#timer.unref();
  }

  get config(): MoverConfig {
    return this.#config;
  }

  status(): MoverStatus {
    this.#status = { ...this.#status, ...this.#progress() };
    return this.#status;
  }

  /** Where the figures of progress come from once there are any. */
  setProgress(source: () => Partial<Pick<MoverStatus, 'link' | 'progress'>>): void {
    this.#progress = source;
  }

  setError(error: { code: string; message: string; remedy: string }): void {
    this.#update({ error: { code: error.code, message: error.message, remedy: error.remedy } });
  }

  setRecord(record: MigrationRecord): void {
    this.#update({ record });
  }

  onStatus(listener: (status: MoverStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #update(change: Partial<MoverStatus>): void {
    this.#status = { ...this.status(), ...change };
    if (this.states.state === 'switching' && change.error === undefined) {
      this.#untold ??= setTimeout(() => this.#tell(), SWITCHING_UNTOLD_MS);
      return;
    }
    this.#tell();
  }

  #tell(): void {
    clearTimeout(this.#untold);
    this.#untold = undefined;
    const told = JSON.stringify(this.#status);
    if (told === this.#told) return;
    this.#told = told;
    for (const listener of this.#listeners) {
      try {
        listener(this.#status);
      } catch (err) {
        // whoever listens is no part of the migration
        this.log.warn({ err }, 'status not told');
      }
    }
  }
}
