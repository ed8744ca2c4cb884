import type { Command } from 'commander';
import { action, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { imageView, openStore } from '../kit/image-store.ts';
import { formatBytes, printJson, table } from '../kit/output.ts';

export default function ls(context: CliContext): Command {
  return withSite(
    command('ls', 'list the images of a site', 'cloudap image ls --site-config center/site.yaml'),
  ).action(
    action(context, async (options: SiteOptions & { json?: boolean }) => {
      const { store } = await openStore(options);
      const images = (await store.list()).map(imageView);
      if (options.json) return printJson(context.output, images);
      const rows = images.map((image) => [
        image.name,
        image.digest.slice(0, 16),
        image.format,
        formatBytes(image.fileBytes),
        formatBytes(image.virtualSizeBytes),
        image.hasKernel ? 'kernel' : 'disk',
        image.createdAt,
      ]);
      context.output.out(table(['NAME', 'DIGEST', 'FORMAT', 'FILE', 'DISK', 'BOOTS', 'CREATED'], rows));
      return undefined;
    }),
  );
}
