import { writeFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { action, apiClient, command, withSite, type CliContext, type SiteOptions } from '../kit/command.ts';
import { printJson } from '../kit/output.ts';

export default function screenshot(context: CliContext): Command {
  return withSite(
    command(
      'screenshot',
      'save the screen of a running VM as PNG',
      'cloudap vm screenshot desk --out desk.png --site-config center/site.yaml',
    ),
  )
    .argument('<vm>', 'name or id')
    .option('--out <file>', 'file to write (default: <vm>.png)')
    .action(
      action(context, async (name: string, options: SiteOptions & { out?: string; json?: boolean }) => {
        const png = await apiClient(options).bytes('GET', `/vms/${encodeURIComponent(name)}/screenshot`);
        const file = options.out ?? `${name}.png`;
        await writeFile(file, png);
        if (options.json) printJson(context.output, { file, bytes: png.length });
        else context.output.out(`${file}\n`);
      }),
    );
}
