import type { Command } from 'commander';
import type { CliContext } from '../kit/command.ts';
import { pushCommand } from '../kit/push.ts';

export default function pushTemplate(context: CliContext): Command {
  return pushCommand(context, {
    kind: 'template',
    summary: 'bring a template to another site, resumable and verified; the site must have its image',
    example: 'cloudap template push desk --to ap1 --site-config center/site.yaml',
  });
}
