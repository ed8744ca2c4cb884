import type { Command } from 'commander';
import { TemplateStore } from '../../content/templates/store.ts';
import { statusSchema } from '../../site/api/messages.ts';
import { sitePaths } from '../../site/paths.ts';
import {
  action,
  apiClient,
  command,
  siteConfig,
  withSite,
  type CliContext,
  type SiteOptions,
} from '../kit/command.ts';
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

/** Works on the store by itself: hashing gigabytes is no work for an agent. */
async function openTemplates(options: SiteOptions): Promise<TemplateStore> {
  const site =
    options.socket === undefined
      ? siteConfig(options)
      : await apiClient(options).json('GET', '/status', statusSchema);
  return TemplateStore.open(sitePaths(site).templatesDir);
}
