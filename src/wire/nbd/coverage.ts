import { fail } from './errors.ts';

/** Which parts of a reply have arrived: disjoint ranges in ascending order, neighbours joined. */
export class Coverage {
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];
  #covered = 0;

  get coveredBytes(): number {
    return this.#covered;
  }

  /** Adds `[start, end)`. @throws NBD_BAD_FRAME when a part of it has been there before */
  add(start: number, end: number): void {
    const at = this.#firstEndingAfter(start);
    const nextStart = this.#starts[at];
    if (nextStart !== undefined && nextStart < end) {
      throw fail('NBD_BAD_FRAME', `two chunks of one reply hold the byte at ${Math.max(start, nextStart)}`);
    }
    this.#covered += end - start;
    const joinsLeft = at > 0 && this.#ends[at - 1] === start;
    const joinsRight = nextStart === end;
    if (joinsLeft && joinsRight) {
      this.#ends.splice(at - 1, 1);
      this.#starts.splice(at, 1);
    } else if (joinsLeft) this.#ends[at - 1] = end;
    else if (joinsRight) this.#starts[at] = start;
    else {
      this.#starts.splice(at, 0, start);
      this.#ends.splice(at, 0, end);
    }
  }

  #firstEndingAfter(offset: number): number {
    let low = 0;
    let high = this.#ends.length;
    // chunks mostly arrive in order: look at the end first
    if (high > 0 && (this.#ends[high - 1] as number) <= offset) return high;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ends[middle] as number) > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}
