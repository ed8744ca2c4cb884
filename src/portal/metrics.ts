import {
  type GaugeConfiguration,
  Counter,
  Gauge,
  Histogram,
  Registry,
  collectDefaultMetrics,
} from '@prometheus-io/client';
import type { Center } from '../center/center.ts';
import { isTerminal } from '../center/moves/state.ts';

/** It lives in its registry. */
const gauge = <L extends string>(options: GaugeConfiguration<L>): Gauge<L> => new Gauge(options);

/** What Prometheus scrapes: the state of the fleet when it asks, and what has happened since the center started. */
export class Metrics implements Disposable {
  readonly registry = new Registry();
  readonly requests: Histogram<'method' | 'route' | 'status'>;
  readonly #unlisten: () => void;

  constructor({ fleet, moves }: Pick<Center, 'fleet' | 'moves'>) {
    const registers = [this.registry];
    collectDefaultMetrics({ register: this.registry, prefix: 'cloudap_process_' });
    this.requests = new Histogram({
      name: 'cloudap_http_request_seconds',
      help: 'Requests to the API',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.005, 0.02, 0.1, 0.5, 2, 10],
      registers,
    });
    gauge({
      name: 'cloudap_hosts',
      help: 'Hosts by site; state alive or silent',
      labelNames: ['site', 'state'],
      registers,
      collect() {
        this.reset();
        for (const { site, alive } of fleet.hosts()) this.inc({ site, state: alive ? 'alive' : 'silent' });
      },
    });
    gauge({
      name: 'cloudap_vms',
      help: 'VMs by site and status',
      labelNames: ['site', 'status'],
      registers,
      collect() {
        this.reset();
        for (const { site, status } of fleet.vms()) this.inc({ site, status });
      },
    });
    gauge({
      name: 'cloudap_host_memory_mib',
      help: 'Memory of hosts for VMs, by site; use capacity or used',
      labelNames: ['site', 'use'],
      registers,
      collect() {
        this.reset();
        for (const { site, heartbeat } of fleet.hosts()) {
          this.inc({ site, use: 'capacity' }, heartbeat.capacity.memoryMiB);
          this.inc({ site, use: 'used' }, heartbeat.used.memoryMiB);
        }
      },
    });
    gauge({
      name: 'cloudap_moves_under_way',
      help: 'Moves that wait or go on',
      registers,
      collect() {
        this.set(moves.list().filter(({ record }) => record.endedAtMs === null).length);
      },
    });
    const ended = new Counter({
      name: 'cloudap_moves_total',
      help: 'Moves that have ended, by result and cause',
      labelNames: ['result', 'cause'],
      registers,
    });
    const buckets = [0.25, 0.5, 1, 2, 4, 8, 16, 32, 64];
    const switched = new Histogram({
      name: 'cloudap_move_switch_seconds',
      help: 'From the start of the migration to the VM running at its target',
      buckets,
      registers,
    });
    const downtime = new Histogram({
      name: 'cloudap_move_downtime_seconds',
      help: 'How long the VM stood still',
      buckets: [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1],
      registers,
    });
    this.#unlisten = moves.onChange(({ record }) => {
      if (!isTerminal(record.state)) return;
      ended.inc({ result: record.state, cause: record.cause });
      if (!record.figures) return;
      switched.observe(record.figures.switchTimeMs / 1000);
      downtime.observe(record.figures.downtimeMs / 1000);
    });
  }

  [Symbol.dispose](): void {
    this.#unlisten();
  }
}
