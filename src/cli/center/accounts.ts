import { Option, type Command } from 'commander';
import * as z from 'zod';
import {
  accountViewSchema,
  credentialAnswerSchema,
  credentialViewSchema,
  meSchema,
} from '../../portal/messages.ts';
import { askPassword } from '../kit/ask-password.ts';
import { centerClient, type CenterOptions } from '../kit/center-client.ts';
import { action, command, type CliContext } from '../kit/command.ts';
import { EXIT_OK } from '../kit/constants.ts';
import { parseDurationMs } from '../kit/duration.ts';
import { failUsage, printJson, table } from '../kit/output.ts';

interface AccountOptions extends CenterOptions {
  role?: string;
  password?: boolean;
  disable?: boolean;
  enable?: boolean;
  rm?: boolean;
}

const role = (): Option =>
  new Option('--role <role>', 'what the user may').choices(['user', 'operator', 'admin']);

/** `cloudap center account USER`: makes it, or changes it. */
export function account(context: CliContext): Command {
  return command(
    'account',
    'make, change or remove who may use the API',
    'cloudap center account ann --role user --password',
  )
    .argument('<user>', 'its name; the same as of VMs and devices')
    .addOption(role())
    .option('--password', 'set a password: it is asked for, or taken from CLOUDAP_PASSWORD')
    .option('--disable', 'it may not log in, and its tokens do not count')
    .option('--enable', 'it may again')
    .option('--rm', 'remove it, with its sessions and tokens')
    .action(
      action(context, async (user: string, options: AccountOptions) => {
        const client = await centerClient(options);
        const path = `/accounts/${encodeURIComponent(user)}`;
        if (options.rm) {
          const removed = await client.json('DELETE', path, z.unknown());
          if (options.json) return printJson(context.output, removed);
          context.output.out(`${user} removed\n`);
          return EXIT_OK;
        }
        if (options.enable && options.disable) throw failUsage('USAGE', 'either --enable or --disable');
        const change = {
          ...(options.role === undefined ? {} : { role: options.role }),
          ...(options.password ? { password: await askPassword(`Password of ${user}: `) } : {}),
        };
        const state = options.disable ? { disabled: true } : options.enable ? { disabled: false } : {};
        const there = (await client.all('/accounts', accountViewSchema)).some((one) => one.user === user);
        const made = there
          ? await client.json('PATCH', path, accountViewSchema, { body: { ...change, ...state } })
          : await client.json('POST', '/accounts', accountViewSchema, { body: { user, ...change } });
        if (options.json) return printJson(context.output, made);
        context.output.out(`${made.user}: ${made.role}${made.disabled ? ', disabled' : ''}\n`);
        return EXIT_OK;
      }),
    );
}

export function accounts(context: CliContext): Command {
  return command('accounts', 'who may use the API', 'cloudap center accounts').action(
    action(context, async (options: CenterOptions) => {
      const all = await (await centerClient(options)).all('/accounts', accountViewSchema);
      if (options.json) return printJson(context.output, all);
      context.output.out(
        table(
          ['user', 'role', 'password', 'state'],
          all.map((one) => [
            one.user,
            one.role,
            one.hasPassword ? 'yes' : 'no',
            one.disabled ? 'disabled' : 'good',
          ]),
        ),
      );
      return EXIT_OK;
    }),
  );
}

interface TokenOptions extends CenterOptions {
  user?: string;
  role?: string;
  ttl: number;
}

export function apiToken(context: CliContext): Command {
  return command(
    'api-token',
    'make a token with which a program uses the API',
    'cloudap center api-token prometheus --user monitor --role operator',
  )
    .argument('<name>', 'for people: what it is for')
    .option('--user <user>', 'whose it is (default: whoever is logged in)')
    .addOption(role())
    .option('--ttl <time>', 'how long it is good, such as 720h', parseDurationMs, 90 * 24 * 60 * 60 * 1000)
    .action(
      action(context, async (name: string, options: TokenOptions) => {
        const { user, ttl } = options;
        const body = {
          name,
          ...(user === undefined ? {} : { user }),
          ...(options.role === undefined ? {} : { role: options.role }),
          ttlMs: ttl,
        };
        const client = await centerClient(options);
        const made = await client.json('POST', '/tokens', credentialAnswerSchema, { body });
        if (options.json) return printJson(context.output, made);
        context.output.out(`${made.token}\n`);
        return EXIT_OK;
      }),
    );
}

export function apiTokens(context: CliContext): Command {
  return command(
    'api-tokens',
    'sessions and tokens, or end one',
    'cloudap center api-tokens --rm 0123456789abcdef',
  )
    .option('--rm <id>', 'one that shall not count any more')
    .action(
      action(context, async (options: CenterOptions & { rm?: string }) => {
        const client = await centerClient(options);
        if (options.rm !== undefined)
          await client.json('DELETE', `/tokens/${encodeURIComponent(options.rm)}`, z.unknown());
        const all = await client.all('/tokens', credentialViewSchema);
        if (options.json) return printJson(context.output, all);
        context.output.out(
          table(
            ['id', 'user', 'kind', 'role', 'name', 'until'],
            all.map((one) => [
              one.id,
              one.user,
              one.kind,
              one.role,
              one.name,
              new Date(one.expiresAtMs).toISOString(),
            ]),
          ),
        );
        return EXIT_OK;
      }),
    );
}

export function whoami(context: CliContext): Command {
  return command('whoami', 'who asks, and what they may', 'cloudap center whoami').action(
    action(context, async (options: CenterOptions) => {
      const me = await (await centerClient(options)).json('GET', '/me', meSchema);
      if (options.json) return printJson(context.output, me);
      context.output.out(`${me.user} (${me.role}, by ${me.via})\n`);
      return EXIT_OK;
    }),
  );
}
