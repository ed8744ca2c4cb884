import type { Command } from 'commander';
import type { CliContext } from '../kit/command.ts';
import { pushCommand } from '../kit/push.ts';

export default function pushImage(context: CliContext): Command {
  return pushCommand(context, {
    kind: 'image',
    summary: 'bring an image to another site, resumable and verified, so that VMs can move there',
    example: 'cloudap image push debian --to ap1 --site-config center/site.yaml',
  });
}
