import type { Command } from 'commander';
import { action, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { openTemplates } from '../kit/image-store.ts';
import { verifyAll } from '../kit/verify-all.ts';

export default function verify(context: CliContext): Command {
  return withSite(
    command(
      'verify',
      'check that stored templates are still what they were: hash them again',
      'cloudap template verify desk --site-config center/site.yaml',
    ),
  )
    .argument('[template]', 'name, digest or beginning of the digest (default: all)')
    .action(
      action(context, async (reference: string | undefined, options: SiteOptions & { json?: boolean }) => {
        const store = await openTemplates(options);
        await verifyAll(context, store, reference, 'templates', options.json === true);
      }),
    );
}
