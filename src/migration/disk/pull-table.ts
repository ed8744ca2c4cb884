import type { Run } from '../../wire/bitmap.ts';
import { MAX_PULL_SECTORS, type PullFrame } from '../../wire/disk/index.ts';
import { MAX_PULL_SECTORS_IN_FLIGHT } from './constants.ts';
import { fail } from './errors.ts';

interface Request {
  pull: number;
  run: Run;
  again: boolean;
  sent: boolean;
  /** Sectors of `run` that this request still stands for. */
  left: number;
}

interface Wait {
  left: number;
  done: PromiseWithResolvers<void>;
}

/**
 * Which sectors have been asked for and who waits for them. A sector has at most one request; waiting and asking are
 * kept apart, because a sector may also arrive by a push, or be asked for again.
 */
export class PullTable {
  readonly #send: (frame: PullFrame) => void;
  readonly #asked = new Map<number, Request>();
  readonly #waits = new Map<number, Wait[]>();
  /** Requests that have been sent and stand for at least one sector, or whose ANSWERED is outstanding. */
  readonly #byNumber = new Map<number, Request>();
  readonly #queue: Request[] = [];
  #lastNumber = 0;
  #sectorsInFlight = 0;
  #failure: { error: unknown } | undefined;

  constructor(send: (frame: PullFrame) => void) {
    this.#send = send;
  }

  /** True while a sector is asked for: its data will be written when they come. */
  has(sector: number): boolean {
    return this.#asked.has(sector);
  }

  /** True when a request with `again` stands for the sector. */
  hasAgain(sector: number): boolean {
    return this.#asked.get(sector)?.again ?? false;
  }

  /** Resolves when all these sectors have landed; they are asked for elsewhere. Rejects after `failAll`. */
  wait(runs: readonly Run[]): Promise<void> {
    const wait: Wait = { left: 0, done: Promise.withResolvers<void>() };
    if (this.#failure) {
      wait.done.reject(this.#failure.error);
      return wait.done.promise;
    }
    for (const run of runs) {
      for (let sector = run.first; sector < run.first + run.count; sector++) {
        const others = this.#waits.get(sector);
        if (others) others.push(wait);
        else this.#waits.set(sector, [wait]);
        wait.left++;
      }
    }
    if (wait.left === 0) wait.done.resolve();
    return wait.done.promise;
  }

  /** Asks for those sectors of a run that are not asked for yet; with `again`, for those not asked for again yet. */
  ask(run: Run, again: boolean): void {
    const end = run.first + run.count;
    let first = run.first;
    while (first < end) {
      if (this.#stands(first, again)) {
        first++;
        continue;
      }
      let stop = first + 1;
      while (stop < end && stop - first < MAX_PULL_SECTORS && !this.#stands(stop, again)) stop++;
      this.#add({ first, count: stop - first }, again);
      first = stop;
    }
    this.#pump();
  }

  /** These sectors have landed (or need no longer be waited for). */
  landed(run: Run): void {
    for (let sector = run.first; sector < run.first + run.count; sector++) {
      this.#release(sector);
      const waits = this.#waits.get(sector);
      if (!waits) continue;
      this.#waits.delete(sector);
      for (const wait of waits) if (--wait.left === 0) wait.done.resolve();
    }
    this.#pump();
  }

  /** Gives up the requests for these sectors (what came for them was damaged); those who wait go on waiting. */
  release(run: Run): void {
    for (let sector = run.first; sector < run.first + run.count; sector++) this.#release(sector);
  }

  /** @throws DISK_UNSOLICITED when no pull with that number, or not for those sectors, was sent */
  checkAnswer(pull: number, run: Run): void {
    const request = this.#byNumber.get(pull);
    const inside =
      !request ||
      (run.first >= request.run.first && run.first + run.count <= request.run.first + request.run.count);
    if (pull === 0 || pull > this.#lastNumber || !inside) {
      throw fail('DISK_UNSOLICITED', `pull ${pull}`, { fields: { pull, ...run } });
    }
  }

  /** Whether this pull was sent with `again`: its answers hold bytes and no references. */
  isAgain(pull: number): boolean {
    return this.#byNumber.get(pull)?.again ?? false;
  }

  /** @throws DISK_UNSOLICITED */
  checkAnswered(pull: number): void {
    if (!this.#byNumber.get(pull)?.again) throw fail('DISK_UNSOLICITED', `end of pull ${pull}`);
  }

  /** All answers to a pull with `again` have been landed: gives up what it still stands for, and returns that. */
  answered(pull: number): Run[] {
    const request = this.#byNumber.get(pull);
    if (!request) return [];
    this.#byNumber.delete(pull);
    const lost: Run[] = [];
    for (let sector = request.run.first; sector < request.run.first + request.run.count; sector++) {
      if (this.#asked.get(sector) !== request) continue;
      this.#release(sector);
      const last = lost.at(-1);
      if (last && last.first + last.count === sector) last.count++;
      else lost.push({ first: sector, count: 1 });
    }
    return lost;
  }

  /** Everyone who waits gets `error`, and everyone who will. */
  failAll(error: unknown): void {
    this.#failure ??= { error };
    const waits = new Set([...this.#waits.values()].flat());
    this.#waits.clear();
    this.#asked.clear();
    this.#queue.length = 0;
    for (const wait of waits) wait.done.reject(error);
  }

  #stands(sector: number, again: boolean): boolean {
    const request = this.#asked.get(sector);
    return request !== undefined && (request.again || !again);
  }

  #add(run: Run, again: boolean): void {
    const request: Request = { pull: 0, run, again, sent: false, left: run.count };
    for (let sector = run.first; sector < run.first + run.count; sector++) {
      this.#release(sector);
      this.#asked.set(sector, request);
    }
    this.#queue.push(request);
  }

  #release(sector: number): void {
    const request = this.#asked.get(sector);
    if (!request) return;
    this.#asked.delete(sector);
    request.left--;
    if (request.sent) this.#sectorsInFlight--;
    // A request with `again` is kept until its ANSWERED.
    if (request.left === 0 && !request.again) this.#byNumber.delete(request.pull);
  }

  /** Sends what waits, as far as the limit allows; requests that nobody needs any more are dropped. */
  #pump(): void {
    while (this.#sectorsInFlight < MAX_PULL_SECTORS_IN_FLIGHT) {
      const request = this.#queue.shift();
      if (!request) return;
      if (request.left === 0) continue;
      // Pull numbers are u32; they cannot run out within one disk of 2^30 sectors unless the peer sends garbage.
      request.pull = ++this.#lastNumber;
      request.sent = true;
      this.#sectorsInFlight += request.left;
      this.#byNumber.set(request.pull, request);
      this.#send({ pull: request.pull, run: request.run, again: request.again });
    }
  }
}
