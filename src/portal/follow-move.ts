import { abortable } from '../base/async.ts';
import type { Moves } from '../center/moves/moves.ts';
import type { MoveAnswer } from './messages.ts';

/** The move now, then at each change, the last time when it has ended. */
export async function* followMove(moves: Moves, id: string, signal: AbortSignal): AsyncGenerator<MoveAnswer> {
  let news = Promise.withResolvers<void>();
  const unlisten = moves.onChange(({ record }) => {
    if (record.move === id) news.resolve();
  });
  try {
    for (;;) {
      const { promise } = news;
      const { record, migration } = moves.get(id);
      yield { record, migration: migration ?? null };
      if (record.endedAtMs !== null) return;
      await abortable(promise, signal);
      news = Promise.withResolvers();
    }
  } finally {
    unlisten();
  }
}
