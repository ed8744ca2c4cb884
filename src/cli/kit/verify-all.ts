import type { LongCall } from '../../content/images/files.ts';
import type { CliContext } from './context.ts';
import { withInterrupt } from './interrupt.ts';
import { formatBytes, printJson } from './output.ts';
import { bar, ProgressLine } from './progress.ts';

interface Item {
  readonly manifest: { readonly digest: string; readonly name: string };
}
interface Store {
  list(): Promise<readonly Item[]>;
  get(reference: string): Promise<Item>;
  verify(digest: string, call: LongCall): Promise<Item>;
}

/** Hashes one item of a store, or all, and says that they are good. @throws what the store says of the first that is not */
export async function verifyAll(
  context: CliContext,
  store: Store,
  reference: string | undefined,
  what: string,
  json: boolean,
): Promise<void> {
  const items = reference === undefined ? await store.list() : [await store.get(reference)];
  const progress = new ProgressLine(context.output);
  const good: { name: string; digest: string; ok: true }[] = [];
  await withInterrupt(async (signal) => {
    for (const { manifest } of items) {
      const { digest, name } = manifest;
      await store.verify(digest, {
        signal,
        onProgress: ({ step, doneBytes, totalBytes }) =>
          progress.update(
            `${digest.slice(0, 16)}: ${step} ${bar(doneBytes / Math.max(1, totalBytes))} ${formatBytes(doneBytes)}`,
          ),
      });
      good.push({ name, digest, ok: true });
    }
  }).finally(() => progress.clear());
  if (json) printJson(context.output, good);
  else if (good.length === 0) context.output.out(`this site has no ${what}\n`);
  else
    for (const { name, digest } of good)
      context.output.out(`${name} ${digest.slice(0, 16)} is as it should be\n`);
}
