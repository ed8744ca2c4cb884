import { Option, type Command } from 'commander';
import * as z from 'zod';
import { nodeListSchema, tokenAnswerSchema, tokenViewSchema } from '../../center/api/messages.ts';
import { centerClient, type CenterOptions } from '../kit/center-client.ts';
import { action, command, type CliContext } from '../kit/command.ts';
import { EXIT_OK } from '../kit/constants.ts';
import { parseDurationMs } from '../kit/duration.ts';
import { printJson, table } from '../kit/output.ts';

interface TokenOptions extends CenterOptions {
  site?: string;
  role?: 'agent' | 'host';
  ttl: number;
}

/** `cloudap center token`: lets one node enrol, once. */
export function token(context: CliContext): Command {
  return command(
    'token',
    'make a token with which one machine enrols, once',
    'cloudap center token ap1-h1 --site ap1',
  )
    .argument('<node>', 'id of the host, or of the agent of a CloudAP')
    .option('--site <site>', 'its site (default: the node itself, as agent of that site)')
    .addOption(
      new Option('--role <role>', 'what it is (default: host with --site, else agent)').choices([
        'agent',
        'host',
      ]),
    )
    .option('--ttl <time>', 'how long it is good, such as 30m or 24h', parseDurationMs, 60 * 60 * 1000)
    .action(
      action(context, async (node: string, options: TokenOptions) => {
        const { site = node, role = options.site === undefined ? 'agent' : 'host', ttl } = options;
        const body = { node, role, site, ttlMs: ttl };
        const made = await centerClient(options).json('POST', '/enrolments', tokenAnswerSchema, { body });
        if (options.json) return printJson(context.output, made);
        const until = new Date(made.view.expiresAtMs).toISOString();
        context.output.out(
          `${role} ${node} of site ${site}; on that machine, before ${until}:\n\n  cloudap enrol ${made.token}\n`,
        );
        return EXIT_OK;
      }),
    );
}

export function tokens(context: CliContext): Command {
  return command(
    'tokens',
    'tokens that were made, or remove one',
    'cloudap center tokens --rm 0123456789abcdef',
  )
    .option('--rm <id>', 'a token that nobody shall use any more')
    .action(
      action(context, async (options: CenterOptions & { rm?: string }) => {
        const client = centerClient(options);
        if (options.rm !== undefined)
          await client.json('DELETE', `/enrolments/${encodeURIComponent(options.rm)}`, z.unknown());
        const all = await client.json('GET', '/enrolments', z.array(tokenViewSchema));
        if (options.json) return printJson(context.output, all);
        const state = ({ usedAtMs, expiresAtMs }: (typeof all)[number]): string =>
          usedAtMs === null ? (expiresAtMs < Date.now() ? 'expired' : 'open') : 'used';
        context.output.out(
          table(
            ['token', 'node', 'site', 'role', 'state', 'until'],
            all.map((one) => [
              one.id,
              one.node,
              one.site,
              one.role,
              state(one),
              new Date(one.expiresAtMs).toISOString(),
            ]),
          ),
        );
        return EXIT_OK;
      }),
    );
}

export function nodes(context: CliContext): Command {
  return command('nodes', 'machines that are enrolled', 'cloudap center nodes').action(
    action(context, async (options: CenterOptions) => {
      const all = await centerClient(options).json('GET', '/nodes', nodeListSchema);
      if (options.json) return printJson(context.output, all);
      context.output.out(
        table(
          ['node', 'site', 'role', 'state', 'certificate until'],
          all.map(({ node, site, role, revokedAtMs, certificates: [certificate] }) => [
            node,
            site,
            role,
            revokedAtMs === null ? 'good' : `revoked ${new Date(revokedAtMs).toISOString()}`,
            certificate ? new Date(certificate.notAfterMs).toISOString() : '',
          ]),
        ),
      );
      return EXIT_OK;
    }),
  );
}

export function revoke(context: CliContext): Command {
  return command('revoke', 'shut a machine, or a whole site, out at once', 'cloudap center revoke ap1-h1')
    .argument('<node>', 'id of the node, or of the site with --site')
    .option('--site', 'all nodes of the site')
    .action(
      action(context, async (id: string, options: CenterOptions & { site?: boolean }) => {
        const body = options.site ? { site: id } : { node: id };
        const revoked = await centerClient(options).json('POST', '/revocations', nodeListSchema, { body });
        if (options.json) return printJson(context.output, revoked);
        context.output.out(`revoked: ${revoked.map(({ node }) => node).join(', ')}\n`);
        return EXIT_OK;
      }),
    );
}
