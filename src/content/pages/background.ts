import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { CloudapError } from '../../base/errors.ts';
import { fail } from './errors.ts';
import type { PageIndex } from './page-index.ts';
import { type Content, type ContentFile, loadPageIndex } from './store.ts';

const WORKER = new URL('index-worker.ts', import.meta.url);

/**
 * Makes a file's index in a thread, whatever stood there. The thread does not keep the process alive; what one that is cut
 * off leaves, the next maker removes. @throws PAGES_NOT_INDEXED
 */
export async function makePageIndexInBackground(file: ContentFile): Promise<void> {
  const worker = new Worker(WORKER, { workerData: file });
  worker.unref();
  const ended = once(worker, 'exit').then(() => ['ended' as const]);
  const [answer] = (await Promise.race([once(worker, 'message'), ended]).catch((cause: unknown) => {
    throw fail('PAGES_NOT_INDEXED', file.path, { cause });
  })) as [{ code: string; message: string } | null | 'ended'];
  if (answer === 'ended') throw fail('PAGES_NOT_INDEXED', file.path);
  if (answer) throw fail('PAGES_NOT_INDEXED', answer.message, { fields: { code: answer.code } });
}

/** Something about content that costs bandwidth, and nothing else. */
export type ContentWarning = (error: CloudapError, content: Content) => void;

/**
 * Loads the indexes that are there. One that is missing or damaged is reported and, where its file is here, made in the
 * background, for the next time: what waits for us must not wait for that.
 */
export async function loadOrMakePageIndexes<C extends Content>(
  contents: readonly C[],
  warn: ContentWarning,
): Promise<readonly { readonly content: C; readonly index: PageIndex }[]> {
  const loaded: { content: C; index: PageIndex }[] = [];
  for (const content of contents) {
    try {
      loaded.push({ content, index: await loadPageIndex(content) });
    } catch (error) {
      warn(error as CloudapError, content);
      const { path, indexPath } = content;
      if (path === undefined) continue;
      makePageIndexInBackground({ path, indexPath }).catch((problem: unknown) =>
        warn(problem as CloudapError, content),
      );
    }
  }
  return loaded;
}
