import type { PageSink, ResidueRule } from '../../wire/qemu-stream/content.ts';

/** What is noted of QEMU's two channels, at both ends alike. */
export interface ChannelResidue {
  readonly firstNumber: number;
  /** By channel; without them nothing is noted. */
  readonly sinks: readonly [PageSink, PageSink] | undefined;
  /** What nobody waits for may be held up until there is room for more to be noted; undefined: there is. */
  readonly room?: (() => Promise<void> | undefined) | undefined;
}

/** One channel's part of it. */
export function ruleOf(residue: ChannelResidue | undefined, channel: 0 | 1): ResidueRule | undefined {
  return residue && { firstNumber: residue.firstNumber, sink: residue.sinks?.[channel] };
}
