import type { StrategyName } from '../control/messages.ts';

/** Shares of a host that are free, 0 to 1, after the VM would have been placed there. */
export interface Candidate {
  readonly host: string;
  readonly cpus: number;
  readonly memory: number;
  readonly disk: number;
  readonly vms: number;
  /** Busy share of its processors now. */
  readonly cpuLoad: number;
}

/** The higher the better; among equals the first by name. */
export type Strategy = (candidate: Candidate) => number;

const scarcest = ({ cpus, memory, disk, vms }: Candidate): number => Math.min(cpus, memory, disk, vms);

export const strategies: Readonly<Record<StrategyName, Strategy>> = {
  /** Where most is left of what is scarcest there, and the processors are idle. */
  'least-loaded': (candidate) => Math.min(scarcest(candidate), 1 - candidate.cpuLoad),
  /** Where least is left: others stay empty, and can be switched off or take a large VM. */
  'best-fit': (candidate) => -scarcest(candidate),
  'first-fit': () => 0,
};

/** The best of them. */
export function choose(strategy: Strategy, candidates: readonly Candidate[]): Candidate | undefined {
  const byName = candidates.toSorted((a, b) => (a.host < b.host ? -1 : 1));
  let best: Candidate | undefined;
  for (const candidate of byName) if (!best || strategy(candidate) > strategy(best)) best = candidate;
  return best;
}
