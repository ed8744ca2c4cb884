import type { Command } from 'commander';
import { command, type CliContext } from '../kit/command.ts';
import ls from './ls.ts';
import rm from './rm.ts';

export default function residue(context: CliContext): Command {
  const group = command(
    'residue',
    'what a site keeps of VMs that left, so that their return is cheap',
    'cloudap residue ls --site-config center/site.yaml',
  );
  group.helpCommand(false);
  for (const make of [ls, rm]) group.addCommand(make(context));
  return group;
}
