import { resolve } from 'node:path';
import type { Command } from 'commander';
import { remotePortal } from '../portal/client.ts';
import { credentialAnswerSchema, meSchema } from '../portal/messages.ts';
import { parseAddress } from '../site/config-text.ts';
import { askPassword } from './kit/ask-password.ts';
import { action, command, type CliContext } from './kit/command.ts';
import { EXIT_OK } from './kit/constants.ts';
import { writeLogin } from './kit/login-file.ts';
import { failUsage, printJson } from './kit/output.ts';

interface Options {
  api: string;
  ca: string;
  user?: string;
  center: string;
  json?: boolean;
}

/** `cloudap login`: from then on `cloudap center …` and `cloudap presence` talk to that center. */
export default function login(context: CliContext): Command {
  return command(
    'login',
    'log in at a center’s API over HTTPS',
    'cloudap login --api center.example.org:7443 --ca ca.pem --user ann',
  )
    .requiredOption('--api <host:port>', 'where its API is')
    .requiredOption('--ca <file>', 'the center’s `ca.pem`, by which it is known')
    .option('--user <user>', 'who; without it CLOUDAP_TOKEN is used')
    .option('--center <node>', 'the center’s node id', 'center')
    .action(
      action(context, async ({ api, ca, user, center, json }: Options) => {
        const address = parseAddress(api);
        if (!address) throw failUsage('USAGE', `--api: "${api}" is not host:port`);
        const where = { ...address, caFile: resolve(ca), center };
        let token = context.env['CLOUDAP_TOKEN'];
        if (user !== undefined) {
          const body = { user, password: await askPassword(`Password of ${user}: `) };
          const client = await remotePortal(where);
          token = (await client.json('POST', '/sessions', credentialAnswerSchema, { body })).token;
        }
        if (token === undefined) throw failUsage('USAGE', 'give --user, or set CLOUDAP_TOKEN');
        const me = await (await remotePortal({ ...where, token })).json('GET', '/me', meSchema);
        const file = await writeLogin({ ...where, token }, context.env);
        if (json) return printJson(context.output, { ...me, file });
        context.output.out(`logged in as ${me.user} (${me.role})\n`);
        return EXIT_OK;
      }),
    );
}
