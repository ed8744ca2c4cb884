export { type LatencySummary } from './histogram.ts';
export { pollSkips, type SkipPollerOptions } from './poller.ts';
export { DiskSource, type DiskSourceOptions, type DiskSourceStats } from './source.ts';
export { DiskTarget, type DiskTargetOptions, type DiskTargetStats } from './target.ts';
