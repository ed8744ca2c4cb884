import { ByteQueue } from './byte-queue.ts';

/** What each state does with the bytes that it waited for. */
export type Steps<State extends string, Frame> = Readonly<
  Record<State, (bytes: Buffer) => Frame | undefined>
>;

/**
 * The frame of a push parser: `push` the bytes as they arrive, then call `next` until it returns undefined. Each state
 * waits for so many bytes and then takes its step, which says what comes next and may give a frame. Errors are final:
 * each later `next` throws the same.
 */
export abstract class StepParser<State extends string, Frame> {
  protected abstract readonly steps: Steps<State, Frame>;
  readonly #queue = new ByteQueue();
  #state: State;
  #need: number;
  #failure: Error | undefined;

  constructor(state: State, need: number) {
    this.#state = state;
    this.#need = need;
  }

  /** Bytes that have arrived and are not part of a frame yet. */
  get bufferedBytes(): number {
    return this.#queue.length;
  }

  push(chunk: Buffer): void {
    this.#queue.push(chunk);
  }

  /** @throws what the steps throw */
  next(): Frame | undefined {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      while (this.#queue.length >= this.#need) {
        const frame = this.steps[this.#state](this.#queue.take(this.#need));
        if (frame !== undefined) return frame;
      }
      return undefined;
    } catch (error) {
      this.#failure = error as Error;
      this.#queue.clear();
      throw error;
    }
  }

  protected expect(state: State, need: number): undefined {
    this.#state = state;
    this.#need = need;
    return undefined;
  }
}
