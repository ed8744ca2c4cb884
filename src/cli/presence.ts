import { Option, type Command } from 'commander';
import * as z from 'zod';
import { centerClient, withCenter, type CenterOptions } from './kit/center-client.ts';
import { action, command, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { printJson } from './kit/output.ts';

interface Options extends CenterOptions {
  at: string;
  kind: 'arrive' | 'leave';
}

/** `cloudap presence DEVICE --at SITE`: what a presence plug-in would say. */
export default function presence(context: CliContext): Command {
  return withCenter(
    command(
      'presence',
      'say that a device is at a site now: its user’s VMs follow',
      'cloudap presence phone --at ap1',
    ),
  )
    .argument('<device>', 'its MAC address, or any other name')
    .requiredOption('--at <site>', 'the site')
    .addOption(new Option('--kind <kind>', 'what it did').choices(['arrive', 'leave']).default('arrive'))
    .action(
      action(context, async (device: string, options: Options) => {
        const body = { device, site: options.at, kind: options.kind };
        const said = await (await centerClient(options)).json(
          'POST',
          '/presence',
          z.object({ id: z.string() }),
          {
            body,
          },
        );
        if (options.json) return printJson(context.output, said);
        context.output.out(`${device} ${options.kind === 'arrive' ? 'is at' : 'has left'} ${options.at}\n`);
        return EXIT_OK;
      }),
    );
}
