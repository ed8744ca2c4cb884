import type { MigrationRecord } from '../../migration/record.ts';

const MIB = 1024 * 1024;

/** A record as a migration that went well leaves it, for tests of what shows records. */
export function exampleRecord(): MigrationRecord {
  return {
    version: 1,
    migrationId: 'mig-0123456789ab',
    ok: true,
    error: null,
    scheme: 'hybrid',
    codecs: { memory: 'zstd', disk: 'rle' },
    accelerator: 'tcg',
    qemuVersion: '7.2.22',
    source: 'center',
    target: 'ap1',
    vm: {
      id: 'vm-0123456789ab',
      name: 'desk',
      memoryMiB: 512,
      cpus: 1,
      image: 'x',
      overlayBytes: MIB,
      generation: 1,
    },
    link: { rateMbit: 100, rttMs: 10, clockOffsetMs: 0, cuts: 0 },
    initiatedAtMs: 1,
    stoppedAtMs: 2489,
    resumedAtMs: 2501,
    downtimeMs: 12,
    switchTimeMs: 2500,
    totalTimeMs: 3100,
    completedAsPrecopy: false,
    switchBudgetMs: null,
    roundOneCut: null,
    bytes: {
      memory: 18 * MIB,
      disk: MIB,
      device: MIB / 2,
      control: MIB / 2,
      total: 20 * MIB,
      roundOne: 17 * MIB,
    },
    rawBytes: { memory: 200 * MIB, disk: 2 * MIB, device: MIB },
    pages: {
      zero: 5,
      sent: 6,
      referenced: 0,
      fromResidue: 0,
      repeated: 0,
      resent: 0,
      postCopied: 7,
      faulted: 8,
    },
    codecLevel: { min: 1, max: 6, last: 6 },
    blocks: { sizeBytes: 4096, total: 6, pushed: 1, pulled: 2, skipped: 3, referenced: 0 },
    pullLatencyMs: { count: 2, p50: 11, p99: 12, max: 12 },
    phases: [
      { name: 'prepare', startMs: 0, endMs: 300 },
      { name: 'freeze-and-copy', startMs: 2488, endMs: 2500 },
    ],
    integrity: { checked: 10, bad: 0 },
    peakRssMiB: { source: 90, target: 95 },
  };
}
