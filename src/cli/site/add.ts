import type { Command } from 'commander';
import { addSite } from '../../site/setup/init.ts';
import { action, command, type CliContext } from '../kit/command.ts';
import { printJson } from '../kit/output.ts';
import { setupOf, setupOptions, type SetupOptions } from './init.ts';

interface Options extends SetupOptions {
  ca: string;
  dial?: string[];
}

export default function add(context: CliContext): Command {
  const cmd = command(
    'add',
    'set up a further site with a certificate of the center’s CA',
    'cloudap site add --ca center --id ap1 --dir ap1',
  ).requiredOption('--ca <dir>', 'directory that `site init` made (or its ca directory)');
  return setupOptions(cmd)
    .option(
      '--dial <site=host:port...>',
      'sites that it dials (default: the center, at the address in its configuration)',
    )
    .action(
      action(context, async (options: Options) => {
        const made = await addSite({ ...setupOf(options), ca: options.ca, dial: options.dial });
        if (options.json) return printJson(context.output, made);
        context.output.out(`${made.config}\n\nRun it:   cloudap site --config ${made.config}\n`);
        return undefined;
      }),
    );
}
