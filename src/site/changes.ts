import { abortable, sleep } from '../base/async.ts';

/** Something that changes until it ends, and those who watch it. */
export class Changes {
  #next = Promise.withResolvers<void>();

  changed(): void {
    this.#next.resolve();
    this.#next = Promise.withResolvers();
  }

  /** The view now, then after changes, at most one in `intervalMs`; ends with the first that is not active. */
  async *follow<V extends { readonly active: boolean }>(
    view: () => V,
    ended: Promise<void>,
    call: { readonly signal: AbortSignal; readonly intervalMs: number },
  ): AsyncGenerator<V> {
    const { signal, intervalMs } = call;
    for (;;) {
      const next = this.#next.promise;
      const now = view();
      yield now;
      if (!now.active) return;
      await abortable(Promise.race([ended, sleep(intervalMs, signal)]), signal);
      await abortable(next, signal);
    }
  }
}
