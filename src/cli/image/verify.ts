import type { Command } from 'commander';
import { action, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { openStore } from '../kit/image-store.ts';
import { verifyAll } from '../kit/verify-all.ts';

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
        await verifyAll(context, store, reference, 'images', options.json === true);
      }),
    );
}
