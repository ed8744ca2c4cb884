import { Command } from 'commander';
import type { CliContext } from '../kit/command.ts';
import build from './build.ts';
import importImage from './import.ts';
import ls from './ls.ts';
import push from './push.ts';
import rm from './rm.ts';
import verify from './verify.ts';

export default function image(context: CliContext): Command {
  const group = new Command('image').description('base images of a site').helpCommand(false);
  for (const make of [build, importImage, ls, push, rm, verify]) group.addCommand(make(context));
  return group.addHelpText('after', '\nExample:\n  cloudap image ls --site-config center/site.yaml');
}
