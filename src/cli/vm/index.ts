import { Command } from 'commander';
import type { CliContext } from '../kit/command.ts';
import create from './create.ts';
import ls from './ls.ts';
import rm from './rm.ts';
import screenshot from './screenshot.ts';
import start from './start.ts';
import stop from './stop.ts';

export default function vm(context: CliContext): Command {
  const group = new Command('vm').description('VMs of a site').helpCommand(false);
  for (const make of [create, ls, start, stop, rm, screenshot]) group.addCommand(make(context));
  return group.addHelpText('after', '\nExample:\n  cloudap vm ls --site-config center/site.yaml');
}
