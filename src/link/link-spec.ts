import { fail } from './errors.ts';

/** An emulated link: the same in both directions. */
export interface LinkSpec {
  /** Undefined: as fast as it goes. */
  rateMbit: number | undefined;
  /** Round trip without load; half of it in each direction. */
  rttMs: number;
  /** Each direction's delay varies by up to this much, without reordering. */
  jitterMs: number;
}

const RATE_UNITS: Readonly<Record<string, number>> = { kbit: 0.001, mbit: 1, gbit: 1000 };
const TIME_UNITS: Readonly<Record<string, number>> = { us: 0.001, ms: 1, s: 1000 };
const MAX_RATE_MBIT = 100_000;
const MAX_TIME_MS = 60_000;

function quantity(key: string, text: string, units: Readonly<Record<string, number>>, max: number): number {
  const match = /^(\d+(?:\.\d+)?)([a-z]+)$/.exec(text);
  const unit = match?.[2] === undefined ? undefined : units[match[2]];
  if (!match || unit === undefined) {
    throw fail(
      'LINK_SPEC',
      `${key}=${text}: a number with a unit (${Object.keys(units).join(', ')}) is expected`,
      {
        fields: { key, text },
      },
    );
  }
  const value = Number(match[1]) * unit;
  if (!(value <= max)) throw fail('LINK_SPEC', `${key}=${text} is out of range`, { fields: { key, text } });
  return value;
}

/** Reads `rate=100mbit,rtt=10ms,jitter=1ms`; each part may be left out. @throws LINK_SPEC */
export function parseLinkSpec(text: string): LinkSpec {
  const spec: LinkSpec = { rateMbit: undefined, rttMs: 0, jitterMs: 0 };
  const seen = new Set<string>();
  for (const part of text.trim().toLowerCase().split(',')) {
    const [key = '', value = '', ...more] = part.split('=').map((side) => side.trim());
    if (more.length > 0 || value === '') throw fail('LINK_SPEC', `${JSON.stringify(part)} is not key=value`);
    if (seen.has(key)) throw fail('LINK_SPEC', `${key} is given twice`, { fields: { key } });
    seen.add(key);
    if (key === 'rate') spec.rateMbit = quantity(key, value, RATE_UNITS, MAX_RATE_MBIT);
    else if (key === 'rtt') spec.rttMs = quantity(key, value, TIME_UNITS, MAX_TIME_MS);
    else if (key === 'jitter') spec.jitterMs = quantity(key, value, TIME_UNITS, MAX_TIME_MS);
    else throw fail('LINK_SPEC', `${JSON.stringify(key)} is none of rate, rtt, jitter`, { fields: { key } });
  }
  if (spec.rateMbit === 0) throw fail('LINK_SPEC', 'a rate of 0 carries nothing; use cut() for a dead link');
  if (spec.jitterMs > spec.rttMs / 2) {
    throw fail(
      'LINK_SPEC',
      `jitter=${spec.jitterMs}ms is more than the one-way delay of ${spec.rttMs / 2}ms`,
    );
  }
  return spec;
}

/** The text that parseLinkSpec reads. */
export function formatLinkSpec(spec: LinkSpec): string {
  const parts = spec.rateMbit === undefined ? [] : [`rate=${spec.rateMbit}mbit`];
  parts.push(`rtt=${spec.rttMs}ms`);
  if (spec.jitterMs > 0) parts.push(`jitter=${spec.jitterMs}ms`);
  return parts.join(',');
}
