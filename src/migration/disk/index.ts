export type { LatencySummary } from './histogram.ts';
export { pollSkips, type SkipPollerOptions } from './poller.ts';
export { DiskSource } from './source.ts';
export { DiskTarget } from './target.ts';
export type {
  DiskBlocks,
  DiskLink,
  DiskSourceOptions,
  DiskSourceStats,
  DiskTargetOptions,
  DiskTargetStats,
  FreezeReport,
} from './types.ts';
