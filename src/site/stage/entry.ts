import type { Artefact, ArtefactKindName } from '../../content/staging/artefact.ts';
import { fail } from '../../content/staging/errors.ts';
import type { ApiError } from '../api/messages.ts';
import type { PushView } from '../api/push-messages.ts';
import { Changes } from '../changes.ts';
import type { StageProcess } from './process.ts';
import type { StageStatus } from './process-config.ts';

export type PushEnd = 'completed' | 'cancelled' | 'failed';

export interface PushInfo {
  readonly pushId: string;
  readonly role: 'source' | 'target';
  readonly kind: ArtefactKindName;
  readonly artefact: Artefact;
  readonly peer: string;
  readonly startedAtMs: number;
}

/** One push at this site, on either side: what is known of it, and who wants to know. */
export class PushEntry {
  readonly info: PushInfo;
  /** Aborted by a cancel, and by what the other site says of its end; the reason is the error to report. */
  readonly cancelled = new AbortController();
  /** The other site has said how it ended there: it need not be told. */
  peerKnows = false;
  /** Resolves when nothing of it is under way here any more. */
  readonly ended: Promise<void>;
  readonly #end = Promise.withResolvers<void>();
  readonly #changes = new Changes();
  #process: StageProcess | undefined;
  #status: StageStatus | undefined;
  #outcome: { state: PushEnd; error: ApiError | null; present: boolean; endedAtMs: number } | undefined;

  constructor(info: PushInfo) {
    this.info = info;
    this.ended = this.#end.promise;
  }

  get active(): boolean {
    return this.#outcome === undefined;
  }

  get process(): StageProcess | undefined {
    return this.#process;
  }

  attach(process: StageProcess): void {
    this.#process = process;
    // a cancel that came before
    if (this.cancelled.signal.aborted) process.cancel();
  }

  update(status: StageStatus): void {
    this.#status = status;
    this.#changes.changed();
  }

  /** `ended` tells when it is done. @throws STAGE_ENDED */
  cancel(reason: Error): void {
    if (!this.active) throw fail('STAGE_ENDED', this.info.pushId);
    if (!this.cancelled.signal.aborted) this.cancelled.abort(reason);
    this.#process?.cancel();
  }

  end(state: PushEnd, error: ApiError | null, present = false): void {
    if (this.#outcome) return;
    this.#outcome = { state, error, present, endedAtMs: Date.now() };
    this.#changes.changed();
    this.#end.resolve();
  }

  view(): PushView {
    const { pushId, role, kind, artefact, peer, startedAtMs } = this.info;
    const { digest, name } = artefact;
    const status = this.#status;
    return {
      pushId,
      role,
      kind,
      digest,
      name,
      peer,
      startedAtMs,
      endedAtMs: this.#outcome?.endedAtMs ?? null,
      // a process that has ended is still being settled
      state: this.#outcome?.state ?? (status && isUnderWay(status) ? status.state : 'preparing'),
      active: this.active,
      present: this.#outcome?.present ?? false,
      link: status?.link ?? null,
      progress: status
        ? {
            doneBytes: status.doneBytes,
            totalBytes: status.totalBytes,
            resumedBytes: status.resumedBytes,
            wireBytes: status.wireBytes,
            rateMbit: status.rateMbit,
            paused: status.paused,
          }
        : null,
      error: this.#outcome?.error ?? null,
    };
  }

  follow(signal: AbortSignal, intervalMs: number): AsyncGenerator<PushView> {
    return this.#changes.follow(() => this.view(), this.ended, { signal, intervalMs });
  }
}

function isUnderWay(
  status: StageStatus,
): status is StageStatus & { state: 'connecting' | 'sending' | 'verifying' } {
  return ['connecting', 'sending', 'verifying'].includes(status.state);
}
