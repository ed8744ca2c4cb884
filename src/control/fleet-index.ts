/** Values by key, and the keys of each group: what belongs together is found without looking at all. */
export class GroupedMap<K, V> {
  readonly #groupOf: (value: V) => string;
  readonly #values = new Map<K, V>();
  readonly #groups = new Map<string, Set<K>>();

  constructor(groupOf: (value: V) => string) {
    this.#groupOf = groupOf;
  }

  get size(): number {
    return this.#values.size;
  }

  get(key: K): V | undefined {
    return this.#values.get(key);
  }

  set(key: K, value: V): void {
    const before = this.#values.get(key);
    const group = this.#groupOf(value);
    if (before !== undefined && this.#groupOf(before) !== group) this.#leave(key, this.#groupOf(before));
    this.#values.set(key, value);
    const members = this.#groups.get(group);
    if (members) members.add(key);
    else this.#groups.set(group, new Set([key]));
  }

  delete(key: K): void {
    const before = this.#values.get(key);
    if (before === undefined) return;
    this.#values.delete(key);
    this.#leave(key, this.#groupOf(before));
  }

  #leave(key: K, group: string): void {
    const members = this.#groups.get(group);
    members?.delete(key);
    if (members?.size === 0) this.#groups.delete(group);
  }

  keys(): IterableIterator<K> {
    return this.#values.keys();
  }

  values(): IterableIterator<V> {
    return this.#values.values();
  }

  /** Keys of one group. */
  of(group: string): ReadonlySet<K> {
    return this.#groups.get(group) ?? new Set();
  }
}
