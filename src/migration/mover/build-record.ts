import { asCloudapError, type CloudapError } from '../../base/errors.ts';
import type { LinkStats } from '../../link/types.ts';
import type { MemorySourceStats } from '../memory/source.ts';
import type { TargetFigures } from '../messages.ts';
import { type MigrationRecord, sealRecord } from '../record.ts';
import type { SourceMoverConfig } from './config.ts';
import { peakRssMiB } from './rss.ts';

/** The phases of one migration as offsets from its beginning, in ms. */
export class Timeline {
  readonly #originMs: number;
  readonly #phases: { name: string; startMs: number; endMs: number }[] = [];

  constructor(originMs: number) {
    this.#originMs = originMs;
  }

  /** Adds a phase by Unix times. */
  add(name: string, fromMs: number, toMs: number): void {
    const startMs = Math.max(0, fromMs - this.#originMs);
    this.#phases.push({
      name,
      startMs: round(startMs),
      endMs: round(Math.max(startMs, toMs - this.#originMs)),
    });
  }

  phases(): MigrationRecord['phases'] {
    return this.#phases.map((phase) => ({ ...phase }));
  }
}

export interface RecordParts {
  config: SourceMoverConfig;
  timeline: Timeline;
  /** Undefined where the migration did not get so far. */
  link?: LinkStats | undefined;
  memory?: MemorySourceStats | undefined;
  figures?: TargetFigures | undefined;
  roundOneBytes?: number;
  roundOneCut?: MigrationRecord['roundOneCut'];
  times?: { stoppedAtMs: number; resumedAtMs: number; independentAtMs: number } | undefined;
  error?: unknown;
}

/** Puts the one record together. Bytes are counted at the source, both directions, frames included. */
export function buildRecord(parts: RecordParts): Readonly<MigrationRecord> {
  const { config, link, memory, figures, times } = parts;
  const error = parts.error === undefined ? undefined : asCloudapError(parts.error);
  const totalBytes = link
    ? link.urgent.bytesSent + link.urgent.bytesReceived + link.bulk.bytesSent + link.bulk.bytesReceived
    : 0;
  const memoryBytes = memory?.bytes.memory ?? 0;
  const deviceBytes = memory?.bytes.device ?? 0;
  const diskBytes = figures?.diskBytes ?? 0;
  const since = (atMs: number): number => round(atMs - config.initiatedAtMs);
  return sealRecord({
    version: 1,
    migrationId: config.migrationId,
    ok: error === undefined,
    error: error ? errorShape(error) : null,
    scheme: config.scheme,
    codecs: {
      memory: config.memoryCodec === 'content' ? 'content+zstd' : config.memoryCodec,
      disk: config.diskCodec === 'content' ? 'content+zstd' : config.diskCodec,
    },
    accelerator: config.accelerator,
    qemuVersion: config.qemuVersion,
    source: config.siteId,
    target: config.peerSiteId,
    vm: { id: config.vmId, ...config.vm, overlayBytes: figures?.overlayBytes ?? 0 },
    link: {
      rateMbit: link?.rateMbit === undefined ? null : round(link.rateMbit),
      rttMs: link?.minRttMs === undefined ? null : round(link.minRttMs),
      clockOffsetMs: link?.clockOffsetMs === undefined ? null : round(link.clockOffsetMs),
      cuts: link?.cuts ?? 0,
    },
    initiatedAtMs: config.initiatedAtMs,
    stoppedAtMs: times?.stoppedAtMs ?? null,
    resumedAtMs: times?.resumedAtMs ?? null,
    downtimeMs: times ? round(times.resumedAtMs - times.stoppedAtMs) : null,
    switchTimeMs: times ? since(times.resumedAtMs) : null,
    totalTimeMs: times ? since(times.independentAtMs) : null,
    completedAsPrecopy: memory?.completedAsPrecopy ?? false,
    switchBudgetMs: config.switchBudgetMs ?? null,
    roundOneCut: parts.roundOneCut ?? null,
    bytes: {
      memory: memoryBytes,
      disk: diskBytes,
      device: deviceBytes,
      control: Math.max(0, totalBytes - memoryBytes - deviceBytes - diskBytes),
      total: totalBytes,
      roundOne: parts.roundOneBytes ?? 0,
    },
    rawBytes: {
      memory: memory?.encoder.memory.bytesRaw ?? 0,
      disk: figures?.diskRawBytes ?? 0,
      device: memory?.encoder.device.bytesRaw ?? 0,
    },
    pages: {
      zero: memory?.pagesZero ?? 0,
      sent: memory?.pagesSent ?? 0,
      referenced: memory?.pagesReferenced ?? 0,
      fromResidue: memory?.pagesFromResidue ?? 0,
      repeated: memory?.pagesDuplicate ?? 0,
      resent: memory?.pagesResent ?? 0,
      postCopied: memory?.pagesPostCopied ?? 0,
      faulted: memory?.pagesFaulted ?? 0,
    },
    codecLevel: memory?.codecLevels ?? null,
    blocks: figures?.blocks ?? { sizeBytes: 4096, total: 0, pushed: 0, pulled: 0, skipped: 0, referenced: 0 },
    pullLatencyMs: figures?.pullLatencyMs ?? { count: 0, p50: null, p99: null, max: null },
    phases: parts.timeline.phases(),
    integrity: figures?.integrity ?? { checked: 0, bad: 0 },
    peakRssMiB: { source: peakRssMiB(), target: figures?.peakRssMiB ?? 0 },
  });
}

export function errorShape(error: CloudapError): { code: string; message: string; remedy: string } {
  return { code: error.code, message: error.message, remedy: error.remedy };
}

function round(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}
