import type { Command } from 'commander';
import { action, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { openStore, basedOn } from '../kit/image-store.ts';
import { printJson } from '../kit/output.ts';

export default function rm(context: CliContext): Command {
  return withSite(
    command(
      'rm',
      'remove an image that no VM and no template of the site is based on',
      'cloudap image rm debian --site-config center/site.yaml',
    ),
  )
    .argument('<image>', 'name, digest or beginning of the digest')
    .action(
      action(context, async (reference: string, options: SiteOptions & { json?: boolean }) => {
        const { store, site } = await openStore(options);
        const { manifest } = await store.get(reference);
        await store.remove(manifest.digest, (digest) => basedOn(site, digest));
        if (options.json) printJson(context.output, { digest: manifest.digest, removed: true });
        else context.output.out(`${manifest.name} ${manifest.digest.slice(0, 16)} removed\n`);
      }),
    );
}
