import type { Command } from 'commander';
import { action, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { openStore } from '../kit/image-store.ts';
import { withInterrupt } from '../kit/interrupt.ts';
import { formatBytes, printJson } from '../kit/output.ts';
import { bar, ProgressLine } from '../kit/progress.ts';

export default function verify(context: CliContext): Command {
  return withSite(
    command(
      'verify',
      'check that stored images are still what they were: hash them again',
      'cloudap image verify debian --site-config center/site.yaml',
    ),
  )
    .argument('[image]', 'name, digest or beginning of the digest (default: all)')
    .action(
      action(context, async (reference: string | undefined, options: SiteOptions & { json?: boolean }) => {
        const { store } = await openStore(options);
        const digests =
          reference === undefined
            ? (await store.list()).map((image) => image.manifest.digest)
            : [(await store.get(reference)).manifest.digest];
        const progress = new ProgressLine(context.output);
        const good: { name: string; digest: string; ok: true }[] = [];
        await withInterrupt(async (signal) => {
          for (const digest of digests) {
            const { manifest } = await store.verify(digest, {
              signal,
              onProgress: ({ step, doneBytes, totalBytes }) =>
                progress.update(
                  `${digest.slice(0, 16)}: ${step} ${bar(doneBytes / Math.max(1, totalBytes))} ${formatBytes(doneBytes)}`,
                ),
            });
            good.push({ name: manifest.name, digest, ok: true });
          }
        }).finally(() => progress.clear());
        if (options.json) printJson(context.output, good);
        else if (good.length === 0) context.output.out('this site has no images\n');
        else
          for (const { name, digest } of good)
            context.output.out(`${name} ${digest.slice(0, 16)} is as it should be\n`);
      }),
    );
}
