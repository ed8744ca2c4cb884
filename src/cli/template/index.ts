import { Command } from 'commander';
import type { CliContext } from '../kit/command.ts';
import build from './build.ts';
import ls from './ls.ts';
import push from './push.ts';
import rm from './rm.ts';
import verify from './verify.ts';

export default function template(context: CliContext): Command {
  const group = new Command('template')
    .description('frozen VMs of a site, from which others go on at once')
    .helpCommand(false);
  for (const make of [build, ls, push, rm, verify]) group.addCommand(make(context));
  return group.addHelpText(
    'after',
    `
Example:
  cloudap template build --image abiword --name desk --site-config center/site.yaml
  cloudap vm create alice --template desk --site-config center/site.yaml

Whoever starts a VM from a template can read all of its memory: build it from nobody's session.`,
  );
}
