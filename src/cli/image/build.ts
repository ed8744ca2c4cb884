import type { Command } from 'commander';
import { action, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { withInterrupt } from '../kit/interrupt.ts';
import { defaultCacheDir, imageView, openStore } from '../kit/image-store.ts';
import { printJson } from '../kit/output.ts';
import { bar, ProgressLine } from '../kit/progress.ts';

interface Options extends SiteOptions {
  cache?: string;
  json?: boolean;
}

export default function build(context: CliContext): Command {
  const cmd = command(
    'build',
    'build a guest from Debian packages into the site’s store; quick if nothing has changed',
    'cloudap image build abiword --site-config center/site.yaml',
  );
  return withSite(cmd)
    .argument('<recipe>', 'guest to build: ci (small, for tests) or abiword (a desktop)')
    .option('--cache <dir>', 'keeps downloaded packages (default: .cache beside cloudap)')
    .action(
      action(context, async (recipe: string, options: Options) => {
        const { buildGuest } = await import('../../content/guests/build.ts');
        const { store } = await openStore(options);
        const progress = new ProgressLine(context.output);
        const image = await withInterrupt((signal) =>
          buildGuest(recipe, store, options.cache ?? defaultCacheDir(context.env), {
            signal,
            onProgress: ({ step, fraction, detail }) =>
              progress.update(
                `${recipe}: ${step}${fraction === undefined ? '' : ` ${bar(fraction)}`} ${detail ?? ''}`.trimEnd(),
              ),
          }),
        ).finally(() => progress.clear());
        if (options.json) printJson(context.output, imageView(image));
        else context.output.out(`${image.manifest.name} ${image.manifest.digest}\n`);
      }),
    );
}
