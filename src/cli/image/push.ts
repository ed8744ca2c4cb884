import type { Command } from 'commander';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { failUsage } from '../kit/output.ts';
import { listPushes, push } from '../kit/push.ts';

interface Options extends SiteOptions {
  to?: string;
  ls?: boolean;
  json?: boolean;
}

export default function pushImage(context: CliContext): Command {
  return withSite(
    command(
      'push',
      'bring an image to another site, resumable and verified, so that VMs can move there',
      'cloudap image push debian --to ap1 --site-config center/site.yaml',
    ),
  )
    .argument('[image]', 'name, digest or beginning of a digest of an image of this site')
    .option('--to <site>', 'the site to bring it to, as `cloudap site ls` names it')
    .option('--ls', 'list the pushes of this site, running and past')
    .action(
      action(context, async (image: string | undefined, options: Options) => {
        const api = apiClient(options);
        if (options.ls) return listPushes(context, api, 'image', options);
        if (image === undefined || options.to === undefined)
          throw failUsage('USAGE', 'image push needs an image and --to SITE (or --ls)');
        return push(context, api, { kind: 'image', what: image, to: options.to }, options);
      }),
    );
}
