import { randomBytes } from 'node:crypto';
import { PassThrough } from 'node:stream';
import type { Center } from '../center/center.ts';
import {
  EVENT_BACKLOG_MAX_BYTES,
  EVENT_KEEPALIVE_MS,
  EVENT_LISTENERS_MAX,
  EVENTS_REMEMBERED,
} from './constants.ts';
import { failPortal } from './errors.ts';

export interface PortalEvent {
  readonly kind: 'move' | 'vm' | 'host';
  /** Whose it is; null: operators only. */
  readonly user: string | null;
  readonly data: unknown;
}

interface Kept {
  readonly id: number;
  readonly event: PortalEvent;
}

/** What happens, as server-sent events: who comes back with the last id that it saw misses nothing, as long as that is remembered. */
export class EventHub implements Disposable {
  /** Ids of another life of the center are not ours. */
  readonly #life = randomBytes(4).toString('hex');
  readonly #kept: Kept[] = [];
  readonly #listeners = new Set<(kept: Kept) => void>();
  readonly #unlisten: (() => void)[];
  #id = 0;

  constructor({ fleet, moves }: Pick<Center, 'fleet' | 'moves'>) {
    const places = new Map<string, string>();
    const states = new Map<string, string>();
    this.#unlisten = [
      moves.onChange(({ record }) => {
        if (states.get(record.move) === record.state) return;
        states.set(record.move, record.state);
        if (record.endedAtMs !== null) states.delete(record.move);
        this.publish({ kind: 'move', user: record.user, data: record });
      }),
      fleet.onChange(({ kind, id }) => {
        if (kind === 'silent') this.publish({ kind: 'host', user: null, data: { host: id, alive: false } });
        if (kind !== 'vm') return;
        const vm = fleet.vm(id);
        const place = vm ? `${vm.host} ${vm.status}` : 'gone';
        if (places.get(id) === place) return;
        if (vm) places.set(id, place);
        else places.delete(id);
        const user = fleet.assignment(id)?.user ?? null;
        const data = vm
          ? { vm: id, name: vm.name, site: vm.site, host: vm.host, status: vm.status }
          : { vm: id, status: 'gone' };
        this.publish({ kind: 'vm', user, data });
      }),
    ];
  }

  publish(event: PortalEvent): void {
    this.#id += 1;
    const kept = { id: this.#id, event };
    this.#kept.push(kept);
    if (this.#kept.length > EVENTS_REMEMBERED) this.#kept.shift();
    for (const listener of this.#listeners) listener(kept);
  }

  /**
   * A stream of text/event-stream. `lastId` of another life, or of what is forgotten, begins with an event `reset`: look at
   * everything anew. A listener that is too slow is cut off, and comes back by itself.
   * @throws PORTAL_BUSY
   */
  stream(lastId: string | undefined, mine: (event: PortalEvent) => boolean): PassThrough {
    if (this.#listeners.size >= EVENT_LISTENERS_MAX) throw failPortal('PORTAL_BUSY', 'listeners');
    const stream = new PassThrough();
    const send = ({ id, event }: Kept): void => {
      if (!mine(event)) return;
      stream.write(`id: ${this.#life}-${id}\nevent: ${event.kind}\ndata: ${JSON.stringify(event.data)}\n\n`);
      if (stream.writableLength > EVENT_BACKLOG_MAX_BYTES) stream.destroy();
    };
    stream.write(`retry: 2000\n\n`);
    const [life, number = ''] = lastId?.split('-') ?? [];
    const seen = life === this.#life && /^\d+$/.test(number) ? Number(number) : undefined;
    const known = seen !== undefined && seen <= this.#id && (this.#kept[0]?.id ?? 1) <= seen + 1;
    if (known) for (const kept of this.#kept) if (kept.id > seen) send(kept);
    if (!known) stream.write(`id: ${this.#life}-${this.#id}\nevent: reset\ndata: {}\n\n`);
    this.#listeners.add(send);
    const alive = setInterval(() => stream.write(': alive\n\n'), EVENT_KEEPALIVE_MS);
    stream.once('close', () => {
      clearInterval(alive);
      this.#listeners.delete(send);
    });
    stream.on('error', () => {});
    return stream;
  }

  [Symbol.dispose](): void {
    for (const unlisten of this.#unlisten) unlisten();
  }
}
