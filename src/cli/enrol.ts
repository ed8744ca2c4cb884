import { resolve } from 'node:path';
import type { Command } from 'commander';
import { checkNodeDir, writeNode } from '../center/setup/node-files.ts';
import { enrol } from '../registry/enrol.ts';
import { decodeToken } from '../registry/token.ts';
import { parseAddress } from '../site/config-text.ts';
import { action, command, wholeNumber, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { failUsage, printJson } from './kit/output.ts';

interface Options {
  dir?: string;
  center?: string;
  listen: string;
  advertise?: string;
  memory?: number;
  vms?: number;
  json?: boolean;
}

/** `cloudap enrol TOKEN`: makes this machine a part of a two-tier system. */
export default function enrolCommand(context: CliContext): Command {
  return command(
    'enrol',
    'make this machine a host, or the agent of a CloudAP, of a center',
    'cloudap enrol cloudap-enrol-… --dir /etc/cloudap',
  )
    .argument('<token>', 'the line that `cloudap center token` printed at the center')
    .option('--dir <dir>', 'where its configuration and key go (default: a folder named like the node)')
    .option('--center <host:port>', 'the center’s enrolment service, where it is not the one in the token')
    .option('--listen <host:port>', 'of a host: where its gateway listens', '0.0.0.0:7421')
    .option('--advertise <host:port>', 'of a host: the same as other hosts reach it')
    .option('--memory <mib>', 'of a host: memory for its VMs', wholeNumber('--memory', 64, 1024 * 1024))
    .option('--vms <n>', 'of a host: VMs that it may have', wholeNumber('--vms', 1, 256))
    .action(
      action(context, async (text: string, options: Options) => {
        const token = decodeToken(text);
        const where = options.center ?? token.address;
        const address = parseAddress(where);
        if (!address) throw failUsage('USAGE', `--center: "${where}" is not host:port`);
        for (const [name, value] of Object.entries({ listen: options.listen, advertise: options.advertise }))
          if (value !== undefined && !parseAddress(value))
            throw failUsage('USAGE', `--${name}: "${value}" is not host:port`);
        const dir = resolve(options.dir ?? token.node);
        await checkNodeDir(dir, token.node);
        const file = await writeNode(dir, await enrol(token, address), where, {
          listen: options.listen,
          ...(options.advertise === undefined ? {} : { advertise: options.advertise }),
          ...(options.memory === undefined ? {} : { memoryMiB: options.memory }),
          ...(options.vms === undefined ? {} : { vms: options.vms }),
        });
        const { node, role, site } = token;
        if (options.json) return printJson(context.output, { node, role, site, config: file });
        context.output.out(
          `${node} is enrolled as ${role} of site ${site}. Now:\n\n  cloudap ${role === 'agent' ? 'ap' : 'host'} --config ${file}\n`,
        );
        return EXIT_OK;
      }),
    );
}
