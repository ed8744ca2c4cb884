import { expect, test } from 'vitest';
import { errorCode } from '../base/errors.ts';
import { formatLinkSpec, parseLinkSpec } from './link-spec.ts';

test.each([
  ['rate=100mbit,rtt=10ms,jitter=1ms', { rateMbit: 100, rttMs: 10, jitterMs: 1 }],
  ['rate=1gbit', { rateMbit: 1000, rttMs: 0, jitterMs: 0 }],
  ['rtt=0.5s', { rateMbit: undefined, rttMs: 500, jitterMs: 0 }],
  [' RATE=512kbit , rtt=200us ', { rateMbit: 0.512, rttMs: 0.2, jitterMs: 0 }],
])('%s', (text, spec) => {
  expect(parseLinkSpec(text)).toEqual(spec);
  expect(parseLinkSpec(formatLinkSpec(spec))).toEqual(spec);
});

test.each([
  '',
  'rate',
  'rate=',
  'rate=100',
  'rate=100mb',
  'rate=-1mbit',
  'rate=0mbit',
  'rate=1e9mbit',
  'rate=999999gbit',
  'rtt=5mbit',
  'rtt=1ms,rtt=2ms',
  'loss=1%',
  'rtt=2ms,jitter=2ms',
  'rate=1=2mbit',
])('%j is LINK_SPEC', (text) => {
  let code = 'none';
  try {
    parseLinkSpec(text);
  } catch (error) {
    code = errorCode(error);
  }
  expect(code).toBe('LINK_SPEC');
});
