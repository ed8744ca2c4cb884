import { WINDOW_MAX_BYTES } from '../../link/constants.ts';
import { simulate, type SimulatedLink, type SimulatedSecond } from '../../link/window.sim.ts';
import { makeRow, type Row } from '../kit/rows.ts';
import { quantile } from '../kit/stats.ts';

const SECONDS = 15;
/** Start-up has long ended by then, at any rate and round trip. */
const SETTLED_AFTER_S = 5;
const RATES_MBIT = [5, 10, 50, 100, 1_000, 10_000];
const ROUND_TRIPS_MS = [1, 10, 50, 100];
const JITTER_MS = 5;
const STEP = { fromMbit: 100, toMbit: 20, downMs: 5_000, upMs: 15_000 } as const;
/** A step is over when urgent frames wait for less. */
const SETTLED_WAIT_MS = 12;

const rateName = (mbit: number): string => (mbit >= 1000 ? `${mbit / 1000} Gbit/s` : `${mbit} Mbit/s`);
const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
const waitsOf = (seconds: readonly SimulatedSecond[]): number[] => seconds.flatMap((s) => s.urgentWaitsMs);

function steady(link: SimulatedLink): Row[] {
  const { rateMbit, rttMs, noiseMs = 0 } = link;
  const seconds = simulate(link, SECONDS);
  const settled = seconds.slice(SETTLED_AFTER_S);
  const waits = waitsOf(settled);
  const name = `${rateName(rateMbit)}, ${rttMs} ms${noiseMs > 0 ? `, jitter ${noiseMs} ms` : ''}`;
  const productBytes = (rateMbit * 1000 * rttMs) / 8;
  const notes = productBytes > WINDOW_MAX_BYTES ? 'the largest window limits it' : undefined;
  const row = (metric: string, value: number): Row => makeRow(name, metric, value, { notes });
  return [
    row('usedPercent', 100 * mean(settled.map((s) => s.utilisation))),
    row('waitP50Ms', quantile(waits, 0.5)),
    row('waitP99Ms', quantile(waits, 0.99)),
    row('waitMaxMs', quantile(waits, 1)),
    row('startMaxMs', quantile(waitsOf(seconds.slice(0, SETTLED_AFTER_S)), 1)),
  ];
}

function step(rttMs: number): Row[] {
  const { fromMbit, toMbit, downMs, upMs } = STEP;
  const changes = [
    { atMs: downMs, rateMbit: toMbit },
    { atMs: upMs, rateMbit: fromMbit },
  ];
  const seconds = simulate({ rateMbit: fromMbit, rttMs, changes }, upMs / 1000 + 5);
  const slow = seconds.slice(downMs / 1000, upMs / 1000);
  const waits = waitsOf(slow);
  const last = waits.findLastIndex((wait) => wait > SETTLED_WAIT_MS);
  const again = seconds.slice(upMs / 1000).findIndex((s) => s.utilisation >= 0.9);
  const row = (metric: string, value: number): Row =>
    makeRow(`${fromMbit}, ${toMbit}, ${fromMbit} Mbit/s, ${rttMs} ms`, metric, value);
  return [
    row('waitMaxMs', quantile(waits, 1)),
    row('settledMs', ((last + 1) / waits.length) * (upMs - downMs)),
    row('usedAgainS', again < 0 ? Number.NaN : again),
  ];
}

/** How long urgent frames wait behind bulk, by the model of the window on a virtual clock: no sockets, no other load. */
export function simulatedRows(): { steady: Row[]; steps: Row[] } {
  const points = RATES_MBIT.flatMap((rateMbit) => ROUND_TRIPS_MS.map((rttMs) => ({ rateMbit, rttMs })));
  const jitter = [5, 100, 1000].map((rateMbit) => ({ rateMbit, rttMs: 50, noiseMs: JITTER_MS }));
  return { steady: [...points, ...jitter].flatMap(steady), steps: ROUND_TRIPS_MS.flatMap(step) };
}
