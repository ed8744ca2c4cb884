import { abortable } from '../../base/async.ts';
import { makePageIndex } from '../pages/store.ts';
import { STAGE_DATA, STAGE_END } from '../../wire/stage/constants.ts';
import { decodeStageData, decodeStageEnd } from '../../wire/stage/frames.ts';
import { type Artefact, type ArtefactFile, type ArtefactKind, totalBytes } from './artefact.ts';
import { STAGE_CLOSE_TIMEOUT_MS } from './constants.ts';
import { StageEnd } from './end.ts';
import { fail } from './errors.ts';
import { IncomingFile } from './incoming-file.ts';
import { Part } from './part.ts';

interface Current {
  readonly number: number;
  readonly incoming: IncomingFile;
  ended: PromiseWithResolvers<void>;
}

/** The target's end of a push: asks for one file after the other, and lets the artefact appear when all are verified. */
export class StageReceiver extends StageEnd {
  readonly #kind: ArtefactKind;
  readonly #artefact: Artefact;
  readonly #store: string;
  #current: Current | undefined;
  /** The write under way: what comes after the end must not close its file. */
  #writing: Promise<void> = Promise.resolve();

  constructor(kind: ArtefactKind, artefact: Artefact, store: string) {
    super(totalBytes(artefact));
    this.#kind = kind;
    this.#artefact = artefact;
    this.#store = store;
  }

  pause(paused: boolean): void {
    if (paused === this.progressNow.paused) return;
    this.progressNow = { ...this.progressNow, paused };
    // before that it is told when the work begins
    if (this.progressNow.state !== 'connecting') void this.tell({ kind: 'pause', paused }).catch(() => {});
  }

  protected handleControl(): void {
    throw fail('STAGE_PROTOCOL', 'a control message at the target');
  }

  protected handleData(type: number, payload: Buffer): Promise<void> {
    const current = this.#current;
    if (!current) throw fail('STAGE_PROTOCOL', 'a file that was not asked for');
    const { number, incoming } = current;
    if (type === STAGE_END) {
      if (decodeStageEnd(payload) !== number) throw fail('STAGE_PROTOCOL', 'the end of another file');
      this.#current = undefined;
      current.ended.resolve();
      return Promise.resolve();
    }
    if (type !== STAGE_DATA) throw fail('STAGE_PROTOCOL', `message type ${type}`);
    const { file, offsetBytes, lengthBytes, data } = decodeStageData(payload, incoming.file.fileBytes);
    if (file !== number) throw fail('STAGE_PROTOCOL', 'data of another file');
    this.#writing = incoming.write(offsetBytes, lengthBytes, data).then(() => {
      this.progressNow = { ...this.progressNow, doneBytes: this.progressNow.doneBytes + lengthBytes };
    });
    return this.#writing;
  }

  protected async work(signal: AbortSignal): Promise<void> {
    this.progressNow = { ...this.progressNow, state: 'sending' };
    if (this.progressNow.paused) await this.tell({ kind: 'pause', paused: true });
    const part = await Part.open(this.#store, this.#artefact);
    try {
      for (const [number, file] of this.#artefact.files.entries())
        await this.#receive(part, number, file, signal);
      this.progressNow = { ...this.progressNow, state: 'verifying' };
      await this.tell({ kind: 'verifying' });
      await this.#judge(part, signal);
      for (const content of this.#kind.content(part.folder, this.#artefact)) {
        // without its index the artefact is as good; only bandwidth is lost
        await makePageIndex(content, { signal }).catch(() => signal.throwIfAborted());
      }
      signal.throwIfAborted();
      await part.publish(this.#kind.folderMode);
    } finally {
      await part.release();
    }
    this.done.resolve();
  }

  /** The source closes; where it cannot, everything is done all the same. */
  protected async conclude(): Promise<void> {
    void this.tell({ kind: 'done' }).catch(() => {});
    const patience = AbortSignal.timeout(STAGE_CLOSE_TIMEOUT_MS);
    await abortable(this.session.closed, patience).catch(() => {});
  }

  /** What is whole and yet no good would be so at every attempt. */
  async #judge(part: Part, signal: AbortSignal): Promise<void> {
    try {
      await this.#kind.judge(part.folder, this.#artefact, signal);
    } catch (error) {
      signal.throwIfAborted();
      await part.discard();
      throw error;
    }
  }

  async #receive(part: Part, number: number, file: ArtefactFile, signal: AbortSignal): Promise<void> {
    if (part.isVerified(file.name) && (await part.offsetOf(file.name)) === file.fileBytes) {
      this.#resumed(file.fileBytes);
      return;
    }
    await using incoming = await IncomingFile.open(part, file, signal);
    let resumedBytes = incoming.offsetBytes;
    this.#resumed(resumedBytes);
    try {
      for (;;) {
        const current = { number, incoming, ended: Promise.withResolvers<void>() };
        this.#current = current;
        await this.tell({ kind: 'want', file: number, offsetBytes: incoming.offsetBytes });
        await abortable(current.ended.promise, signal);
        if (await incoming.finish()) return;
        this.progressNow = {
          ...this.progressNow,
          doneBytes: this.progressNow.doneBytes - incoming.offsetBytes,
        };
        await incoming.restart();
        // what was there before may have been at fault; nobody else can be a second time
        if (resumedBytes === 0) {
          await part.discard();
          throw fail('STAGE_DAMAGED', file.name);
        }
        resumedBytes = 0;
      }
    } finally {
      this.#current = undefined;
      await this.#writing.catch(() => {});
      // whatever ended it: the next attempt goes on here
      if (!part.isVerified(file.name)) await incoming.note().catch(() => {});
    }
  }

  #resumed(bytes: number): void {
    const { doneBytes, resumedBytes } = this.progressNow;
    this.progressNow = {
      ...this.progressNow,
      state: 'sending',
      doneBytes: doneBytes + bytes,
      resumedBytes: resumedBytes + bytes,
    };
  }
}
