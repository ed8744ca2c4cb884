import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { abortable } from '../../base/async.ts';
import { MAX_STAGE_BYTES, STAGE_DATA, STAGE_END } from '../../wire/stage/constants.ts';
import { encodeStageData, encodeStageEnd, encodeStageZeros } from '../../wire/stage/frames.ts';
import { type Artefact, type ArtefactFile, totalBytes } from './artefact.ts';
import { ZERO_RUN_BYTES } from './constants.ts';
import { StageEnd } from './end.ts';
import { fail } from './errors.ts';
import type { StageControl } from './messages.ts';

const ZEROS = Buffer.alloc(MAX_STAGE_BYTES);

/** The source's end of a push: sends what the target wants, zeros as their number, on the bulk lane only. */
export class StageSender extends StageEnd {
  readonly #artefact: Artefact;
  readonly #folder: string;
  readonly #inbox: StageControl[] = [];
  /** Who has a migration under way. */
  readonly #paused = { here: false, there: false };
  #resume: PromiseWithResolvers<void> | undefined;
  #arrived = Promise.withResolvers<void>();

  constructor(artefact: Artefact, folder: string) {
    super(totalBytes(artefact));
    this.#artefact = artefact;
    this.#folder = folder;
  }

  protected handleData(type: number): void {
    throw fail('STAGE_PROTOCOL', `message type ${type} at the source`);
  }

  pause(paused: boolean): void {
    this.#setPaused('here', paused);
  }

  #setPaused(where: 'here' | 'there', paused: boolean): void {
    this.#paused[where] = paused;
    const now = this.#paused.here || this.#paused.there;
    this.progressNow = { ...this.progressNow, paused: now };
    if (now) this.#resume ??= Promise.withResolvers();
    else {
      this.#resume?.resolve();
      this.#resume = undefined;
    }
  }

  protected handleControl(message: StageControl): void {
    if (message.kind === 'pause') return this.#setPaused('there', message.paused);
    this.#inbox.push(message);
    this.#arrived.resolve();
  }

  protected async work(signal: AbortSignal): Promise<void> {
    for (;;) {
      const message = await this.#next(signal);
      signal.throwIfAborted();
      if (message.kind === 'want') await this.#sendFile(message.file, message.offsetBytes, signal);
      else if (message.kind === 'verifying')
        this.progressNow = {
          ...this.progressNow,
          state: 'verifying',
          doneBytes: this.progressNow.totalBytes,
        };
      else return this.done.resolve();
    }
  }

  protected conclude(): Promise<void> {
    return this.session.close();
  }

  async #next(signal: AbortSignal): Promise<StageControl> {
    for (;;) {
      const message = this.#inbox.shift();
      if (message) return message;
      this.#arrived = Promise.withResolvers();
      await abortable(this.#arrived.promise, signal);
    }
  }

  async #sendFile(number: number, offsetBytes: number, signal: AbortSignal): Promise<void> {
    const { files } = this.#artefact;
    const file = files[number];
    if (!file || offsetBytes > file.fileBytes) throw fail('STAGE_PROTOCOL', `file ${number}`);
    // the files go in order: those before it are at the target
    const before = totalBytes({ files: files.slice(0, number) });
    const { resumedBytes, doneBytes } = this.progressNow;
    const sent = Math.max(0, before + offsetBytes - doneBytes);
    this.progressNow = {
      ...this.progressNow,
      state: 'sending',
      resumedBytes: resumedBytes + sent,
      doneBytes: before + offsetBytes,
    };
    await using handle = await openSource(join(this.#folder, file.name), file);
    await this.#sendFrom(handle, number, file, offsetBytes, before, signal);
    await this.session.send('bulk', STAGE_END, encodeStageEnd(number));
  }

  async #sendFrom(
    handle: FileHandle,
    number: number,
    file: ArtefactFile,
    from: number,
    before: number,
    signal: AbortSignal,
  ): Promise<void> {
    let zeros = 0;
    for (let offset = from; offset < file.fileBytes; ) {
      await abortable(this.#resume?.promise ?? Promise.resolve(), signal);
      const data = await readPart(handle, file, offset);
      if (data.compare(ZEROS, 0, data.length) === 0) zeros += data.length;
      else {
        await this.#flushZeros(number, offset, zeros);
        zeros = 0;
        await this.session.send('bulk', STAGE_DATA, encodeStageData(number, offset, data));
      }
      offset += data.length;
      if (zeros >= ZERO_RUN_BYTES || offset === file.fileBytes) {
        await this.#flushZeros(number, offset, zeros);
        zeros = 0;
      }
      this.progressNow = { ...this.progressNow, doneBytes: before + offset };
    }
  }

  /** The zeros that end at `end`. */
  async #flushZeros(number: number, end: number, lengthBytes: number): Promise<void> {
    if (lengthBytes > 0)
      await this.session.send('bulk', STAGE_DATA, encodeStageZeros(number, end - lengthBytes, lengthBytes));
  }
}

async function openSource(path: string, { fileBytes }: ArtefactFile): Promise<FileHandle> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    const { size } = await handle.stat();
    if (size === fileBytes) return handle;
    throw fail('STAGE_SOURCE', `${path} has ${size} instead of ${fileBytes} bytes`);
  } catch (cause) {
    await handle?.close();
    throw (cause as { code?: unknown }).code === 'STAGE_SOURCE'
      ? cause
      : fail('STAGE_SOURCE', path, { cause });
  }
}

/** The next bytes of the file, as many as one message takes. @throws STAGE_SOURCE */
async function readPart(
  handle: FileHandle,
  { name, fileBytes }: ArtefactFile,
  offset: number,
): Promise<Buffer> {
  // A buffer of its own each time: what was sent must not change.
  const data = Buffer.allocUnsafe(Math.min(MAX_STAGE_BYTES, fileBytes - offset));
  try {
    for (let done = 0; done < data.length; ) {
      const { bytesRead } = await handle.read(data, done, data.length - done, offset + done);
      if (bytesRead === 0) throw new Error(`it ends at ${offset + done}`);
      done += bytesRead;
    }
  } catch (cause) {
    throw fail('STAGE_SOURCE', name, { cause });
  }
  return data;
}
