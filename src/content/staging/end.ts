import { abortable } from '../../base/async.ts';
import { asCloudapError, CloudapError } from '../../base/errors.ts';
import type { LinkSession } from '../../link/types.ts';
import { STAGE_CONTROL } from '../../wire/stage/constants.ts';
import { STAGE_CLOSE_TIMEOUT_MS } from './constants.ts';
import { fail } from './errors.ts';
import { decodeStageControl, encodeStageControl, failedControl, type StageControl } from './messages.ts';

/** What a push has done so far, at either end. */
export interface StageProgress {
  readonly state: 'connecting' | 'sending' | 'verifying';
  /** Bytes of the files that need no more work: sent, or known to be at the target. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Of these, bytes that the target had when the push began. */
  readonly resumedBytes: number;
  /** A migration is under way: it has the link to itself until it has ended. */
  readonly paused: boolean;
}

/** What both ends of a push share: the link, what the other end says, and how it ends. */
export abstract class StageEnd {
  protected readonly failed = new AbortController();
  /** Nothing can go wrong any more. */
  protected readonly done = Promise.withResolvers<void>();
  #session: LinkSession | undefined;
  protected progressNow: StageProgress;

  constructor(totalBytes: number) {
    this.progressNow = { state: 'connecting', doneBytes: 0, totalBytes, resumedBytes: 0, paused: false };
  }

  progress(): StageProgress {
    return this.progressNow;
  }

  protected get session(): LinkSession {
    if (!this.#session) throw new Error('not running');
    return this.#session;
  }

  /** For the session's `onMessage`. What cannot be taken ends the push with its code. */
  async handle(type: number, payload: Buffer): Promise<void> {
    if (this.failed.signal.aborted) return;
    try {
      if (type !== STAGE_CONTROL) return await this.handleData(type, payload);
      const message = decodeStageControl(payload);
      if (message.kind !== 'failed') return this.handleControl(message);
      const { code, message: text, remedy } = message.error;
      this.failed.abort(new CloudapError(code, text, remedy, {}));
    } catch (error) {
      this.failed.abort(asCloudapError(error));
    }
  }

  /** Holds the push while a migration is under way at this site: two bulk lanes would share the link, and its queue. */
  abstract pause(paused: boolean): void;
  protected abstract handleData(type: number, payload: Buffer): void | Promise<void>;
  protected abstract handleControl(message: StageControl): void;
  protected abstract work(signal: AbortSignal): Promise<void>;
  protected abstract conclude(): Promise<void>;

  /** The whole push; on failure the other end is told why. @throws STAGE_*, LINK_*, IMAGE_*, the signal's reason */
  async run(session: LinkSession, signal: AbortSignal): Promise<void> {
    this.#session = session;
    const lost = new AbortController();
    session.closed.then(
      () => lost.abort(fail('STAGE_PEER_FAILED', 'it has closed the link')),
      (error: unknown) => lost.abort(error),
    );
    const any = AbortSignal.any([signal, this.failed.signal, lost.signal]);
    let work: Promise<void> = Promise.resolve();
    try {
      await abortable(session.opened(any), any);
      work = this.work(any);
      // once everything is done the other end may close the link
      await Promise.race([abortable(work, any), this.done.promise]);
      await this.conclude();
    } catch (thrown) {
      // what the other end said counts more than that the link is gone now
      const error = asCloudapError(this.failed.signal.aborted ? this.failed.signal.reason : thrown);
      if (!this.failed.signal.aborted) this.failed.abort(error);
      void session.send('urgent', STAGE_CONTROL, failedControl(error)).catch(() => {});
      await session.close(STAGE_CLOSE_TIMEOUT_MS).catch(() => {});
      // what has arrived is noted; nothing waits for the link any more
      await work.catch(() => {});
      throw error;
    }
  }

  protected tell(message: StageControl): Promise<void> {
    return this.session.send('urgent', STAGE_CONTROL, encodeStageControl(message));
  }
}
