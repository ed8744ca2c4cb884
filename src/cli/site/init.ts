import { Option, type Command } from 'commander';
import { initSite } from '../../site/setup/init.ts';
import { MEMORY_MAX_MIB } from '../../site/constants.ts';
import { action, command, wholeNumber, type CliContext } from '../kit/command.ts';
import { printJson } from '../kit/output.ts';

export interface SetupOptions {
  id: string;
  dir: string;
  listen?: string;
  advertise?: string;
  memory?: number;
  accelerator?: 'auto' | 'tcg' | 'kvm';
  json?: boolean;
}

/** The options that `init` and `add` share. */
export function setupOptions(cmd: Command): Command {
  return cmd
    .requiredOption('--id <id>', 'name of the site: a-z 0-9 -, up to 32')
    .requiredOption('--dir <dir>', 'new directory for its configuration, certificate and data')
    .option(
      '--listen <host:port>',
      'where its gateway listens (init: 0.0.0.0:7411 by default; add: none by default, as behind NAT)',
    )
    .option('--advertise <host:port>', 'address under which other sites reach that, where it differs')
    .option(
      '--memory <mib>',
      'memory for all VMs, in MiB (default: three quarters of the machine’s)',
      wholeNumber('--memory', 1, MEMORY_MAX_MIB),
    )
    .addOption(
      new Option(
        '--accelerator <which>',
        'auto: KVM where it is known to work, else TCG (default: auto)',
      ).choices(['auto', 'tcg', 'kvm']),
    );
}

export function setupOf(options: SetupOptions) {
  const { id, dir, listen, advertise, memory, accelerator } = options;
  return { id, dir, listen, advertise, memoryMiB: memory, accelerator };
}

export default function init(context: CliContext): Command {
  const cmd = command(
    'init',
    'set up a Cloud center: its own CA, certificate and configuration',
    'cloudap site init --id center --dir center --listen 0.0.0.0:7411',
  );
  return setupOptions(cmd).action(
    action(context, async (options: SetupOptions) => {
      const made = await initSite(setupOf(options));
      if (options.json) return printJson(context.output, made);
      context.output.out(
        `${made.config}\n\nNext, a CloudAP:    cloudap site add --ca ${options.dir} --id ap1 --dir ap1\n` +
          `and run this one:   cloudap site --config ${made.config}\n`,
      );
      return undefined;
    }),
  );
}
