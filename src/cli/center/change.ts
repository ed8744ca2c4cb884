import { Option, type Command } from 'commander';
import * as z from 'zod';
import { deviceTokenAnswerSchema, deviceViewSchema, moveViewSchema } from '../../center/api/messages.ts';
import { DEVICE_TOKEN_TTL_MS } from '../../mobility/constants.ts';
import { siteRecordSchema } from '../../control/messages.ts';
import { vmViewSchema } from '../../site/api/messages.ts';
import { centerClient, type CenterOptions } from '../kit/center-client.ts';
import { action, command, wholeNumber, type CliContext } from '../kit/command.ts';
import { EXIT_FAILED, EXIT_OK } from '../kit/constants.ts';
import { parseDurationMs } from '../kit/duration.ts';
import { printJson } from '../kit/output.ts';

export function site(context: CliContext): Command {
  return command(
    'site',
    'make a site, or say how it places VMs',
    'cloudap center site ap1 --strategy best-fit',
  )
    .argument('<site>', 'its id')
    .option('--label <text>', 'for people', '')
    .addOption(
      new Option('--strategy <which>', 'how VMs are placed on its hosts')
        .choices(['least-loaded', 'best-fit', 'first-fit'])
        .default('least-loaded'),
    )
    .action(
      action(context, async (id: string, options: CenterOptions & { label: string; strategy: string }) => {
        const body = { label: options.label, strategy: options.strategy };
        const made = await centerClient(options).json('PUT', `/sites/${id}`, siteRecordSchema, { body });
        if (options.json) return printJson(context.output, made);
        context.output.out(`site ${made.site}: ${made.strategy}\n`);
        return EXIT_OK;
      }),
    );
}

interface VmOptions extends CenterOptions {
  user: string;
  image?: string;
  template?: string;
  home?: string;
  memory?: number;
  cpus?: number;
}

export function vm(context: CliContext): Command {
  return command(
    'vm',
    'make a VM for a user; it follows the user from then on',
    'cloudap center vm desk --user ann --image abiword',
  )
    .argument('<name>', 'its name')
    .requiredOption('--user <user>', 'whose it is')
    .option('--image <image>', 'boots from this image')
    .option('--template <template>', 'goes on from this template')
    .option('--home <site>', 'where it is while the user is nowhere (default: the center)')
    .option('--memory <mib>', 'memory in MiB', wholeNumber('--memory', 16, 1024 * 1024))
    .option('--cpus <n>', 'virtual processors', wholeNumber('--cpus', 1, 64))
    .action(
      action(context, async (name: string, options: VmOptions) => {
        const { user, image, template, home, memory, cpus } = options;
        const body = {
          name,
          user,
          ...(image === undefined ? {} : { image }),
          ...(template === undefined ? {} : { template }),
          ...(home === undefined ? {} : { homeSite: home }),
          ...(memory === undefined ? {} : { memoryMiB: memory }),
          ...(cpus === undefined ? {} : { cpus }),
        };
        const made = await centerClient(options).json('POST', '/vms', vmViewSchema, { body, timeoutMs: 0 });
        if (options.json) return printJson(context.output, made);
        context.output.out(`${made.name} runs at ${made.site}\n`);
        return EXIT_OK;
      }),
    );
}

export function rm(context: CliContext): Command {
  return command('rm', 'stop and remove a VM for good', 'cloudap center rm desk')
    .argument('<vm>', 'by name or id')
    .action(
      action(context, async (id: string, options: CenterOptions) => {
        const client = centerClient(options);
        await client.json('POST', `/vms/${id}/stop`, z.unknown(), { body: { force: true }, timeoutMs: 0 });
        const removed = await client.json('DELETE', `/vms/${id}`, z.unknown());
        if (options.json) return printJson(context.output, removed);
        context.output.out(`${id} removed\n`);
        return EXIT_OK;
      }),
    );
}

export function device(context: CliContext): Command {
  return command('device', 'say whose a device is', 'cloudap center device aa:bb:cc:dd:ee:ff --user ann')
    .argument('<device>', 'its MAC address, or any other name')
    .requiredOption('--user <user>', 'whose it is')
    .action(
      action(context, async (id: string, options: CenterOptions & { user: string }) => {
        const path = `/devices/${encodeURIComponent(id)}`;
        const body = { user: options.user };
        const made = await centerClient(options).json('PUT', path, deviceViewSchema, { body });
        if (options.json) return printJson(context.output, made);
        context.output.out(`${made.device} is ${made.user}’s\n`);
        return EXIT_OK;
      }),
    );
}

export function deviceToken(context: CliContext): Command {
  return command(
    'device-token',
    'make a token that a device shows at the portal of a site',
    'cloudap center device-token aa:bb:cc:dd:ee:ff --ttl 24h',
  )
    .argument('<device>', 'its MAC address, or any other name')
    .option('--ttl <time>', 'how long it is good', parseDurationMs, DEVICE_TOKEN_TTL_MS)
    .action(
      action(context, async (device: string, options: CenterOptions & { ttl: number }) => {
        const path = `/devices/${encodeURIComponent(device)}/token`;
        const body = { ttlMs: options.ttl };
        const made = await centerClient(options).json('POST', path, deviceTokenAnswerSchema, { body });
        if (options.json) return printJson(context.output, made);
        context.output.out(
          `on that device, at each site: http://<address of the site’s portal>/#${made.token}\n`,
        );
        return EXIT_OK;
      }),
    );
}

export function move(context: CliContext): Command {
  return command('move', 'move a VM to a site, and wait for it', 'cloudap center move desk --to ap1')
    .argument('<vm>', 'by name or id')
    .requiredOption('--to <site>', 'the site')
    .option('--host <host>', 'a host of the site (default: the site chooses)')
    .action(
      action(context, async (id: string, options: CenterOptions & { to: string; host?: string }) => {
        const client = centerClient(options);
        const body = {
          vm: id,
          toSite: options.to,
          ...(options.host === undefined ? {} : { toHost: options.host }),
        };
        let last = await client.json('POST', '/moves', moveViewSchema, { body });
        for await (const next of client.lines(`/moves/${last.record.move}/events`, moveViewSchema))
          last = next;
        const { record } = last;
        if (options.json) printJson(context.output, last);
        else if (record.state === 'completed')
          context.output.out(
            `${record.name} is at ${record.to.host}: switched in ${Math.round(record.figures?.switchTimeMs ?? 0)} ms\n`,
          );
        else
          context.output.err(
            `${record.state}: ${record.error?.message ?? ''}\n  ${record.error?.remedy ?? ''}\n`,
          );
        return record.state === 'completed' ? EXIT_OK : EXIT_FAILED;
      }),
    );
}

export function abort(context: CliContext): Command {
  return command('abort', 'abort a move that has not switched yet', 'cloudap center abort mig-0123456789ab')
    .argument('<move>', 'its id')
    .action(
      action(context, async (id: string, options: CenterOptions) => {
        const ended = await centerClient(options).json('DELETE', `/moves/${id}`, moveViewSchema);
        if (options.json) return printJson(context.output, ended);
        context.output.out(`${ended.record.state}\n`);
        return EXIT_OK;
      }),
    );
}
