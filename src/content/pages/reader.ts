import { Worker } from 'node:worker_threads';
import { type CloudapError } from '../../base/errors.ts';
import { type ContentWarning, makePageIndexInBackground } from './background.ts';
import { PAGE_BYTES, READS_AHEAD, SLOT_BYTES, SLOT_MIN_BYTES, SLOTS_MAX } from './constants.ts';
import { fail } from './errors.ts';
import type { ContentFile } from './store.ts';

export interface ReadWorkerStart {
  readonly files: readonly ContentFile[];
}
export type ReadRequest =
  | { readonly kind: 'agree'; readonly digests: readonly string[] }
  /** Memory that both threads see: the next number of them. */
  | { readonly kind: 'slot'; readonly memory: SharedArrayBuffer }
  /** Into the slot with this number, or (undefined) into a buffer of its own, which comes with the answer. */
  | {
      readonly kind: 'read';
      readonly id: number;
      readonly ordinals: Float64Array;
      readonly slot: number | undefined;
    };
type ReadAnswer =
  | {
      readonly kind: 'open';
      readonly indexes: readonly { readonly digest: string; readonly entries: number }[];
      readonly problems: readonly {
        readonly file: number;
        readonly code: string;
        readonly message: string;
      }[];
    }
  | {
      readonly kind: 'read';
      readonly id: number;
      readonly bodies: Uint8Array | undefined;
      readonly missing: Uint32Array;
    };

export interface PagesRead {
  /** The pages, one after the other. */
  readonly bodies: Buffer;
  /** Positions of those that are not there or not what they should be; what stands there is of no use. */
  readonly missing: Uint32Array;
}

const WORKER = new URL('read-worker.ts', import.meta.url);

/** The target's end of content: gives pages by their ordinals, each verified against its hash. */
export class ContentReader implements AsyncDisposable {
  readonly #worker: Worker;
  readonly #reads = new Map<
    number,
    { count: number; slot: number | undefined; resolve: (read: PagesRead) => void }
  >();
  /**
   * Memory that is used again and again. Fresh buffers for every frame would be old when they are done with, and only
   * whole collections of garbage would free them: half of the time that a mover takes for references.
   */
  readonly #slots: Buffer[] = [];
  readonly #freeSlots: number[] = [];
  /** Slots in use, by what was given out of them. */
  readonly #lent = new Map<Buffer, number>();
  readonly #entries: ReadonlyMap<string, number>;
  #digests: readonly string[];
  readonly #waiting = { urgent: [] as ReadRequest[], bulk: [] as ReadRequest[] };
  /** Requests that the thread has not answered. */
  #given = 0;
  #next = 0;
  #dead = false;

  private constructor(worker: Worker, entries: ReadonlyMap<string, number>) {
    this.#worker = worker;
    this.#entries = entries;
    this.#digests = [...entries.keys()];
    worker.on('message', (answer: ReadAnswer) => {
      if (answer.kind !== 'read') return;
      const { id, bodies, missing } = answer;
      const asked = this.#reads.get(id);
      if (asked) asked.resolve({ bodies: bodies ? asBuffer(bodies) : this.#lend(asked), missing });
      this.#reads.delete(answer.id);
      this.#given--;
      this.#pump();
    });
    worker.on('error', () => this.#end());
    worker.on('exit', () => this.#end());
  }

  /**
   * Starts the thread and loads the indexes that are there. Never rejects for what is missing or damaged: that is
   * reported, and made in the background for the next time.
   */
  static async open(files: readonly ContentFile[], warn: ContentWarning): Promise<ContentReader> {
    const start: ReadWorkerStart = { files };
    const worker = spare ?? startWorker(start);
    if (worker === spare) worker.postMessage(start);
    spare = undefined;
    const opened = Promise.withResolvers<Extract<ReadAnswer, { kind: 'open' }>>();
    worker.once('message', (answer: ReadAnswer) => {
      if (answer.kind === 'open') opened.resolve(answer);
    });
    worker.once('error', (cause) => opened.reject(fail('PAGES_INDEX_DAMAGED', 'the reader', { cause })));
    worker.once('exit', () => opened.reject(fail('PAGES_INDEX_DAMAGED', 'the reader ended')));
    const { indexes, problems } = await opened.promise;
    for (const { file: i, code, message } of problems) {
      const file = files[i] as ContentFile;
      const missing = code === 'PAGES_INDEX_MISSING';
      warn(fail(missing ? 'PAGES_INDEX_MISSING' : 'PAGES_INDEX_DAMAGED', message), file);
      makePageIndexInBackground(file).catch((error: unknown) => warn(error as CloudapError, file));
    }
    return new ContentReader(worker, new Map(indexes.map(({ digest, entries }) => [digest, entries])));
  }

  /** Has a thread started and waiting: the next `open` need not wait for it to load its program. */
  static startAhead(): void {
    if (spare) return;
    const worker = startWorker(null);
    spare = worker;
    const gone = (): void => {
      if (spare === worker) spare = undefined;
    };
    worker.once('error', gone);
    worker.once('exit', gone);
  }

  /** Nobody will open any files. */
  static async endAhead(): Promise<void> {
    await spare?.terminate();
  }

  /** Digests of the indexes that are here. */
  get digests(): readonly string[] {
    return this.#digests;
  }

  /** Pages that the index with this digest lists; 0 where it is not here. */
  entriesOf(digest: string): number {
    return this.#entries.get(digest) ?? 0;
  }

  /** Of what the other side offers, what is here too, in its order. Ordinals count through these from now on. */
  agree(offered: readonly string[]): readonly string[] {
    const common = [...new Set(offered)].filter((digest) => this.#digests.includes(digest));
    const request: ReadRequest = { kind: 'agree', digests: common };
    this.#worker.postMessage(request);
    this.#digests = common;
    return common;
  }

  /** Reads pages, urgent ones first; those that cannot be had are named, whatever the reason. */
  read(ordinals: Float64Array, call: { readonly urgent?: boolean } = {}): Promise<PagesRead> {
    if (this.#dead) return Promise.resolve(nothing(ordinals.length));
    const { promise, resolve } = Promise.withResolvers<PagesRead>();
    const id = this.#next++;
    const lengthBytes = ordinals.length * PAGE_BYTES;
    const slot = lengthBytes >= SLOT_MIN_BYTES && lengthBytes <= SLOT_BYTES ? this.#takeSlot() : undefined;
    this.#reads.set(id, { count: ordinals.length, slot, resolve });
    this.#waiting[call.urgent ? 'urgent' : 'bulk'].push({ kind: 'read', id, ordinals, slot });
    this.#pump();
    return promise;
  }

  /** What `read` gave is done with: its memory may be used again. */
  giveBack(bodies: Buffer): void {
    const slot = this.#lent.get(bodies);
    if (slot === undefined) return;
    this.#lent.delete(bodies);
    this.#freeSlots.push(slot);
  }

  #lend({ slot = 0, count }: { slot: number | undefined; count: number }): Buffer {
    const bodies = (this.#slots[slot] as Buffer).subarray(0, count * PAGE_BYTES);
    this.#lent.set(bodies, slot);
    return bodies;
  }

  /** Undefined where there are enough: then a buffer of its own has to do. */
  #takeSlot(): number | undefined {
    const free = this.#freeSlots.pop();
    if (free !== undefined || this.#slots.length === SLOTS_MAX) return free;
    const memory = new SharedArrayBuffer(SLOT_BYTES);
    this.#slots.push(Buffer.from(memory));
    this.#worker.postMessage({ kind: 'slot', memory } satisfies ReadRequest);
    return this.#slots.length - 1;
  }

  /** Little is given to the thread ahead of time, so that what is urgent does not wait behind it. */
  #pump(): void {
    while (this.#given < READS_AHEAD) {
      const request = this.#waiting.urgent.shift() ?? this.#waiting.bulk.shift();
      if (!request) return;
      this.#given++;
      this.#worker.postMessage(request);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.terminate();
  }

  /** The thread is gone: everything has to be sent. */
  #end(): void {
    this.#dead = true;
    for (const { count, resolve } of this.#reads.values()) resolve(nothing(count));
    this.#reads.clear();
    this.#waiting.urgent.length = 0;
    this.#waiting.bulk.length = 0;
  }
}

let spare: Worker | undefined;

function startWorker(start: ReadWorkerStart | null): Worker {
  const worker = new Worker(WORKER, { workerData: start });
  worker.unref();
  return worker;
}

function asBuffer({ buffer, byteOffset, length }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, length);
}

function nothing(count: number): PagesRead {
  return {
    bodies: Buffer.alloc(count * PAGE_BYTES),
    missing: Uint32Array.from({ length: count }, (_, i) => i),
  };
}
