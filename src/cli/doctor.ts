import type { Command } from 'commander';
import { action, command, type CliContext } from './kit/command.ts';
import { EXIT_FAILED, EXIT_OK } from './kit/constants.ts';
import { diagnose } from './kit/diagnose.ts';
import { printJson } from './kit/output.ts';

export default function doctor(context: CliContext): Command {
  const cmd = command('doctor', 'say what this machine lacks, and how to mend it', 'cloudap doctor');
  return cmd.option('--dir <dir>', 'where VMs would be kept: its free space is looked at', '.').action(
    action(context, async (options: { dir: string; json?: boolean }) => {
      const findings = await diagnose(options.dir);
      if (options.json) printJson(context.output, findings);
      else {
        const width = Math.max(...findings.map((finding) => finding.name.length));
        for (const { ok, needed, name, detail, remedy } of findings) {
          const mark = ok ? 'ok  ' : needed ? 'FAIL' : 'warn';
          context.output.out(`${mark}  ${name.padEnd(width)}  ${detail}\n`);
          if (!ok && remedy !== undefined) context.output.out(`${' '.repeat(width + 8)}${remedy}\n`);
        }
      }
      return findings.some(({ ok, needed }) => needed && !ok) ? EXIT_FAILED : EXIT_OK;
    }),
  );
}
