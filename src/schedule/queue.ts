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
  /** Of those that run. */
  readonly #perLink = new Map<string, number>();
  readonly #perHost = new Map<string, number>();

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
    const waiting = this.#waiting.get(user);
    if (waiting) waiting.push(entry);
    else this.#waiting.set(user, [entry]);
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
    this.#count(turn, 1);
    go({
      [Symbol.dispose]: () => {
        if (!this.#running.delete(turn.id)) return;
        this.#count(turn, -1);
        this.#next();
      },
    });
  }

  #count(turn: Turn, by: 1 | -1): void {
    add(this.#perLink, linkOf(turn), by);
    add(this.#perHost, turn.from.host, by);
  }

  #fits(turn: Turn): boolean {
    const onLink = this.#perLink.get(linkOf(turn)) ?? 0;
    const fromHost = this.#perHost.get(turn.from.host) ?? 0;
    return onLink < this.#limits.perLink && fromHost < this.#limits.perHost;
  }
}

function add(counts: Map<string, number>, key: string, by: number): void {
  const count = (counts.get(key) ?? 0) + by;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}

const linkOf = ({ from, to }: Turn): string => [from.site, to.site].toSorted().join(' ');
