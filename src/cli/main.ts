import { CommanderError, type Command } from 'commander';
import { createProgram, findCommand, type CommandEntry } from './kit/program.ts';
import { EXIT_OK, EXIT_USAGE } from './kit/constants.ts';
import { processContext, type CliContext } from './kit/context.ts';
import { failUsage, reportError } from './kit/output.ts';

/** Loads only what the command line names: `cloudap --help` reads none of these files. */
const commands: readonly CommandEntry[] = [
  {
    name: 'demo',
    summary: 'show a VM moving between two sites on this machine',
    load: () => import('./demo.ts'),
  },
  {
    name: 'doctor',
    summary: 'say what this machine lacks, and how to mend it',
    load: () => import('./doctor.ts'),
  },
  {
    name: 'image',
    summary: 'base images of a site: build, import, push, ls, rm, verify',
    load: () => import('./image/index.ts'),
  },
  {
    name: 'template',
    summary: 'frozen VMs from which others go on at once: build, push, ls, rm, verify',
    load: () => import('./template/index.ts'),
  },
  {
    name: 'vm',
    summary: 'VMs of a site: create, ls, start, stop, rm, screenshot',
    load: () => import('./vm/index.ts'),
  },
  { name: 'migrate', summary: 'move a running VM to another site', load: () => import('./migrate.ts') },
  {
    name: 'residue',
    summary: 'what a site keeps of VMs that left: ls, rm',
    load: () => import('./residue/index.ts'),
  },
  {
    name: 'up',
    summary: 'run a Cloud center and CloudAPs on this machine, to try them out',
    load: () => import('./up.ts'),
  },
  {
    name: 'center',
    summary: 'run a Cloud center; look at its hosts, VMs, moves, devices, users',
    load: () => import('./center/index.ts'),
  },
  {
    name: 'enrol',
    summary: 'make this machine a host, or the agent of a CloudAP, of a center',
    load: () => import('./enrol.ts'),
  },
  { name: 'ap', summary: 'run the agent of a CloudAP', load: () => import('./ap.ts') },
  {
    name: 'presence',
    summary: 'say that a device is at a site now: its user’s VMs follow',
    load: () => import('./presence.ts'),
  },
  {
    name: 'host',
    summary: 'run a host of a two-tier system',
    load: () => import('./host.ts'),
  },
  {
    name: 'site',
    summary: 'run a site; set up, list and look at sites',
    load: () => import('./site/index.ts'),
  },
];

/** Runs one command line and leaves the exit code with `context`. */
export async function main(argv: readonly string[], context: CliContext = processContext): Promise<void> {
  const program = createProgram(commands);
  const entry = findCommand(commands, argv);
  try {
    if (entry) {
      const module = (await entry.load()) as { default: (context: CliContext) => Command };
      program.addCommand(module.default(context));
    } else refuseUnknown(argv);
    settle(program, context);
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) {
      const harmless = error.exitCode === 0;
      context.setExitCode(harmless ? EXIT_OK : EXIT_USAGE);
      return;
    }
    context.setExitCode(reportError(context.output, error, false));
  }
}

/** A word that is no command, with the one that was probably meant. @throws USAGE */
function refuseUnknown(argv: readonly string[]): void {
  const word = argv.find((text) => !text.startsWith('-'));
  if (word === undefined) return;
  const near = commands.find(({ name }) => name.startsWith(word.slice(0, 2)) || word.startsWith(name));
  throw failUsage('USAGE', `there is no command "${word}"${near ? `; did you mean "${near.name}"?` : ''}`);
}

/** Commander must neither end the process nor write past the context, at any depth. */
function settle(command: Command, context: CliContext): void {
  command.exitOverride();
  command.configureOutput({
    writeOut: (text) => context.output.out(text),
    writeErr: (text) => context.output.err(text),
  });
  for (const inner of command.commands) settle(inner, context);
}

if (import.meta.main) {
  // `cloudap ls | head`: whoever reads has seen enough, which is no failure of ours
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
  });
  await main(process.argv.slice(2));
}
