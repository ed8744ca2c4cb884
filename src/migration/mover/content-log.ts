import type { Logger } from 'pino';
import type { ContentKind } from '../../content/pages/store.ts';
import { fail } from '../../content/residue/errors.ts';
import { ContentLog } from '../../content/residue/log.ts';
import type { DiskNotes } from '../disk/noted.ts';
import type { ChannelResidue } from '../memory/residue.ts';
import type { MoverConfig } from './config.ts';

/** This end's log of what travels; undefined where none is wanted. Its end is told, and no matter of the migration. */
export function openContentLog({ contentLog }: MoverConfig, log: Logger): ContentLog | undefined {
  if (!contentLog) return undefined;
  return new ContentLog({
    ...contentLog,
    onGivenUp: (err) => log.warn({ err }, 'the pages that travel are not kept'),
  });
}

export function channelResidue(log: ContentLog | undefined, firstNumber: number): ChannelResidue {
  return {
    firstNumber,
    sinks: log && [log.sink('memory'), log.sink('memory-urgent')],
    room: log && (() => log.room()),
  };
}

/** `firstNumber` is known when the two sides have agreed. */
export function diskNotes(log: ContentLog | undefined, firstNumber: () => number): DiskNotes | undefined {
  if (!log) return undefined;
  return {
    get firstNumber() {
      return firstNumber();
    },
    add: (sector, buf, start) => log.put(sector, buf, start),
    room: () => log.room(),
    lost: (detail) => log.giveUp(fail('RESIDUE_LOG_FAILED', detail)),
  };
}

/** The number from which on pages are residue's: what stays comes first. */
export function firstOfResidue(
  agreed: readonly { readonly kind: ContentKind; readonly entries: number }[],
): number {
  let first = 0;
  for (const { kind, entries } of agreed) {
    if (kind === 'residue') break;
    first += entries;
  }
  return first;
}
