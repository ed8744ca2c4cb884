import type { Socket } from 'node:net';
import type { ContentReader } from '../../content/pages/reader.ts';
import { PAGE_BYTES } from '../../wire/qemu-stream/constants.ts';
import { ZERO_PAGE } from '../../wire/qemu-stream/held.ts';
import type { Holding } from '../../wire/qemu-stream/holding.ts';
import { encodePageRequest, ReturnPathParser } from '../../wire/qemu-stream/returnPath.ts';
import { migrationFail } from '../messages.ts';
import { Pace } from '../pace.ts';

/** Pages that are written in one piece in the background: so many a page that is asked for may stand behind. */
const BATCH_PAGES = 64;

export interface PlacerOptions {
  readonly holding: Holding;
  readonly reader: (Pick<ContentReader, 'read'> & Partial<Pick<ContentReader, 'giveBack'>>) | undefined;
  /** QEMU's main channel. */
  readonly socket: () => Socket | undefined;
  /** What may be put in between what was written to it last and what comes next. */
  readonly boundary: () => 'records' | 'sections' | undefined;
  /** A request for pages that the source has. */
  readonly onRequest: (request: Buffer) => void;
  readonly onError: (error: Error) => void;
}

/**
 * Gives the target's QEMU the pages that were held back, once it runs the VM: those that it asks for at once, from local
 * files and without a round trip, the others in the background. All go into QEMU's main channel, in front of its end:
 * so QEMU has each of them before its post-copy is over.
 */
export class Placer {
  readonly #options: PlacerOptions;
  readonly #returnPath = new ReturnPathParser();
  /** Block of the last request on the return path, which the next one need not repeat. */
  #requested = '';
  readonly #urgent = new Set<Promise<void>>();
  #background: Promise<void> | undefined;
  #waiting: (() => void)[] = [];
  #placedOnRequest = 0;
  #active = false;
  #closed = false;
  readonly #pace = new Pace();

  constructor(options: PlacerOptions) {
    this.#options = options;
  }

  /** Pages that QEMU has asked for and was given from here. */
  get placedOnRequest(): number {
    return this.#placedOnRequest;
  }

  /** The device state is on its way to QEMU: from here on it may ask. */
  activate(): void {
    this.#active = true;
  }

  /** The VM runs: what is held is placed in the background. */
  start(): void {
    this.#pace.start();
    this.#background ??= this.#placeAll();
    this.#background.catch(this.#options.onError);
  }

  /** Something has been written to QEMU: what waited for a boundary looks again. */
  wake(): void {
    const { length } = this.#waiting;
    if (length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const go of waiting) go();
  }

  /** QEMU has nothing to wait for when this resolves but what is in its socket. */
  async finish(): Promise<void> {
    this.start();
    this.#pace.end();
    await this.#background;
    while (this.#urgent.size > 0) await Promise.all(this.#urgent);
  }

  close(): void {
    this.#closed = true;
    this.#pace.end();
    this.wake();
  }

  /** Bytes of QEMU's return path: requests for pages that are here are answered, everything else goes to the source. */
  handleReturn(bytes: Buffer): void {
    const out: Buffer[] = [];
    for (const message of this.#returnPath.push(bytes)) {
      if (message.kind !== 'request-pages' || !this.#active) {
        if (message.kind === 'request-pages') this.#requested = message.block ?? this.#requested;
        out.push(message.raw);
        continue;
      }
      this.#requested = message.block ?? this.#requested;
      this.#pace.asked();
      this.#answer(this.#requested, Number(message.startByte), message.lengthBytes, out);
    }
    if (out.length > 0) this.#options.onRequest(Buffer.concat(out));
  }

  #answer(block: string, startByte: number, lengthBytes: number, toSource: Buffer[]): void {
    const { held } = this.#options.holding;
    for (let at = startByte; at < startByte + lengthBytes; at += PAGE_BYTES) {
      const page = at / PAGE_BYTES;
      const number = held.claim(block, page);
      if (number === 'given') continue;
      if (number === 'source') {
        // with its name: requests that were answered here have not told it to the source
        toSource.push(encodePageRequest(block, at, PAGE_BYTES));
        continue;
      }
      this.#placedOnRequest++;
      const placing = this.#placeOne(block, page, number).catch(this.#options.onError);
      this.#urgent.add(placing);
      void placing.finally(() => this.#urgent.delete(placing));
    }
  }

  async #placeOne(block: string, page: number, number: number): Promise<void> {
    if (number === ZERO_PAGE) return this.#write(block, [page], undefined);
    await this.#withBodies([number], true, (bodies) => this.#write(block, [page], bodies));
  }

  async #placeAll(): Promise<void> {
    const { held } = this.#options.holding;
    for (let batch = held.claimNext(BATCH_PAGES); batch; batch = held.claimNext(BATCH_PAGES)) {
      const { block, pages, numbers } = batch;
      await this.#withBodies(numbers, false, (bodies) => this.#write(block, pages, bodies));
      await this.#pace.room(pages.length * PAGE_BYTES);
    }
  }

  /** They were verified when they came: what is not there any more has changed within seconds, on a disk that fails. */
  async #withBodies(
    numbers: readonly number[],
    urgent: boolean,
    use: (bodies: Buffer) => Promise<void>,
  ): Promise<void> {
    const { reader } = this.#options;
    if (!reader) throw migrationFail('MOVER_PROTOCOL', 'a reference to content that was not agreed on');
    const { bodies, missing } = await reader.read(Float64Array.from(numbers), { urgent });
    if (missing.length > 0)
      throw migrationFail('MOVER_CONTENT_LOST', `${missing.length} of ${numbers.length} pages`);
    await use(bodies);
    reader.giveBack?.(bodies);
  }

  /** Resolves when QEMU's socket has taken it. */
  async #write(block: string, pages: readonly number[], bodies: Buffer | undefined): Promise<void> {
    const { boundary, holding, socket: find } = this.#options;
    let at = boundary();
    while (at === undefined && !this.#closed) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
      at = boundary();
    }
    const socket = find();
    if (at === undefined || !socket || this.#closed) return;
    const bytes = holding.encode(at, block, pages, bodies);
    await new Promise<void>((resolve, reject) => {
      socket.write(bytes, (cause) => {
        if (cause) reject(migrationFail('MOVER_QEMU_TARGET', `stream: ${cause.message}`, { cause }));
        else resolve();
      });
    });
  }
}
