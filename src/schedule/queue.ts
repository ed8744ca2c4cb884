/** What a move takes part in. */
export interface Turn {
  readonly id: string;
  readonly user: string | null;
  readonly from: { readonly site: string; readonly host: string };
  readonly to: { readonly site: string; readonly host: string | null };
}

interface Waiting {
  readonly turn: Turn;
  readonly go: (slot: Disposable) => void;
}

export interface MoveQueueLimits {
  /** Moves between two sites at once, both directions together: they share the link. */
  readonly perLink: number;
  /** Moves away from a host at once. */
  readonly perHost: number;
}

/**
 * Lets moves begin, at most so many at once on a link and from a host. Users take turns: who has many moves waiting does
 * not keep others out; the moves of one user begin in the order in which they came.
 */
export class MoveQueue {
  readonly #limits: MoveQueueLimits;
  /** By user, those that waited first at the front; the user whose turn it is stands first. */
  readonly #waiting = new Map<string, Waiting[]>();
  readonly #running = new Map<string, Turn>();

  constructor(limits: MoveQueueLimits) {
    this.#limits = limits;
  }

  get waiting(): number {
    return [...this.#waiting.values()].reduce((sum, list) => sum + list.length, 0);
  }

  get running(): number {
    return this.#running.size;
  }

  /** Resolves when it may begin; dispose of the slot when it has ended. @throws the signal's reason */
  async enter(turn: Turn, signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<Disposable>();
    const entry: Waiting = { turn, go: resolve };
    const user = turn.user ?? '';
    this.#waiting.set(user, [...(this.#waiting.get(user) ?? []), entry]);
    const leave = (): void => {
      this.#remove(user, entry);
      reject(signal.reason as Error);
    };
    signal.addEventListener('abort', leave, { once: true });
    this.#next();
    return promise.finally(() => signal.removeEventListener('abort', leave));
  }

  #remove(user: string, entry: Waiting): void {
    const left = (this.#waiting.get(user) ?? []).filter((other) => other !== entry);
    if (left.length > 0) this.#waiting.set(user, left);
    else this.#waiting.delete(user);
  }

  #next(): void {
    let begun = true;
    while (begun) {
      begun = false;
      for (const [user, entries] of this.#waiting) {
        const entry = entries.find(({ turn }) => this.#fits(turn));
        if (!entry) continue;
        this.#remove(user, entry);
        // behind the others, if more of this user wait
        const rest = this.#waiting.get(user);
        if (rest) {
          this.#waiting.delete(user);
          this.#waiting.set(user, rest);
        }
        this.#begin(entry);
        begun = true;
        break;
      }
    }
  }

  #begin({ turn, go }: Waiting): void {
    this.#running.set(turn.id, turn);
    go({
      [Symbol.dispose]: () => {
        if (this.#running.delete(turn.id)) this.#next();
      },
    });
  }

  #fits(turn: Turn): boolean {
    const running = [...this.#running.values()];
    const link = linkOf(turn);
    const onLink = running.filter((other) => linkOf(other) === link).length;
    const fromHost = running.filter((other) => other.from.host === turn.from.host).length;
    return onLink < this.#limits.perLink && fromHost < this.#limits.perHost;
  }
}

const linkOf = ({ from, to }: Turn): string => [from.site, to.site].toSorted().join(' ');
