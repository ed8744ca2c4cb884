import type { Command } from 'commander';
import { command, type CliContext } from '../kit/command.ts';
import add from './add.ts';
import init from './init.ts';
import ls from './ls.ts';
import { addRun } from './run.ts';
import status from './status.ts';

export default function site(context: CliContext): Command {
  const group = command(
    'site',
    'run a site; set up, list and look at sites',
    'cloudap site --config center/site.yaml',
  );
  group.helpCommand(false).enablePositionalOptions();
  for (const make of [init, add, ls, status]) group.addCommand(make(context));
  return addRun(group, context);
}
