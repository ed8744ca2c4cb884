import { expect, test } from 'vitest';
import { type MigrationRecord, migrationRecordSchema, sealRecord } from './record.ts';

const record: MigrationRecord = {
  version: 1,
  migrationId: 'm-1',
  ok: true,
  error: null,
  scheme: 'hybrid',
  codecs: { memory: 'rle', disk: 'rle' },
  accelerator: 'tcg',
  qemuVersion: '7.2',
  source: 'a',
  target: 'b',
  vm: { id: 'vm1', name: 'vm1', memoryMiB: 128, cpus: 1, image: 'x', overlayBytes: 0, generation: 1 },
  link: { rateMbit: null, rttMs: null, clockOffsetMs: -3, cuts: 0 },
  initiatedAtMs: 1000,
  stoppedAtMs: null,
  resumedAtMs: null,
  downtimeMs: null,
  switchTimeMs: null,
  totalTimeMs: null,
  completedAsPrecopy: false,
  switchBudgetMs: null,
  roundOneCut: null,
  bytes: { memory: 0, disk: 0, device: 0, control: 0, total: 0, roundOne: 0 },
  rawBytes: { memory: 0, disk: 0, device: 0 },
  pages: {
    zero: 0,
    sent: 0,
    referenced: 0,
    fromResidue: 0,
    repeated: 0,
    resent: 0,
    postCopied: 0,
    faulted: 0,
  },
  codecLevel: { min: 1, max: 6, last: 6 },
  blocks: { sizeBytes: 4096, total: 0, pushed: 0, pulled: 0, skipped: 0, referenced: 0 },
  pullLatencyMs: { count: 0, p50: null, p99: null, max: null },
  phases: [{ name: 'prepare', startMs: 0, endMs: 1 }],
  integrity: { checked: 0, bad: 0 },
  peakRssMiB: { source: 1, target: 1 },
};

test('a sealed record cannot be changed, at any depth, nor through what it was made of', () => {
  const own = structuredClone(record);
  const sealed = sealRecord(own);
  const frozen = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    expect(Object.isFrozen(value)).toBe(true);
    Object.values(value).forEach(frozen);
  };
  frozen(sealed);
  own.bytes.total = 7;
  expect(sealed.bytes.total).toBe(0);
  expect(migrationRecordSchema.parse(JSON.parse(JSON.stringify(sealed)))).toEqual(record);
});

test('figures that cannot be are refused', () => {
  for (const change of [
    { version: 2 },
    { downtimeMs: -1 },
    { bytes: { ...record.bytes, memory: 1.5 } },
    { phases: [{ name: 'x', startMs: -1, endMs: 0 }] },
  ]) {
    expect(() => sealRecord({ ...record, ...change } as MigrationRecord)).toThrow();
  }
});
