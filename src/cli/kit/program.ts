import { Command } from 'commander';
import { VERSION } from '../../site/version.ts';

export interface CommandEntry {
  name: string;
  summary: string;
  /** A module whose default export makes the command. */
  load: () => Promise<unknown>;
}

/** The program with a line of help for each command; the named one is added in full by `main`. */
export function createProgram(entries: readonly CommandEntry[]): Command {
  const width = Math.max(...entries.map((entry) => entry.name.length));
  const list = entries.map((entry) => `  ${entry.name.padEnd(width)}  ${entry.summary}`).join('\n');
  return (
    new Command('cloudap')
      .description('Moves running virtual machines between a Cloud center and edge sites.')
      .version(VERSION)
      .helpCommand(false)
      // what stands behind a subcommand is its own, also where both know the option (`site --json`, `site ls --json`)
      .enablePositionalOptions()
      .usage('COMMAND [OPTIONS]')
      .addHelpText(
        'after',
        `\nCommands:\n${list}\n\nExample:\n  cloudap demo\n\n\`cloudap COMMAND --help\` has the details.`,
      )
      .allowExcessArguments()
      .action((_options, command: Command) => {
        const [unknown] = command.args;
        if (unknown !== undefined) command.error(`error: unknown command '${unknown}'; see cloudap --help`);
        command.help({ error: true });
      })
  );
}

export function findCommand(
  entries: readonly CommandEntry[],
  argv: readonly string[],
): CommandEntry | undefined {
  const first = argv.find((word) => !word.startsWith('-'));
  return entries.find((entry) => entry.name === first);
}
